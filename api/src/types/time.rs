//! A moment, as RFC 3339 in UTC on the wire and microseconds in the catalog.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A moment in UTC with microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(jiff::Timestamp);

impl Time {
    /// Now, cut to microseconds, so that it survives the catalog unchanged.
    pub fn now() -> Self {
        Self::from_micros(jiff::Timestamp::now().as_microsecond())
    }

    /// From microseconds since 1970; a value that no calendar holds becomes 1970.
    pub fn from_micros(micros: i64) -> Self {
        Self(jiff::Timestamp::from_microsecond(micros).unwrap_or(jiff::Timestamp::UNIX_EPOCH))
    }

    /// Microseconds since 1970.
    pub fn micros(self) -> i64 {
        self.0.as_microsecond()
    }

    /// `2025-10-04 12:00:00`, for people.
    pub fn short(self) -> String {
        self.0.strftime("%Y-%m-%d %H:%M:%S").to_string()
    }

    /// Seconds from `earlier` to this, never below 0.
    pub fn seconds_since(self, earlier: Self) -> f64 {
        let micros = self.micros().saturating_sub(earlier.micros()).max(0);
        std::time::Duration::from_micros(micros.unsigned_abs()).as_secs_f64()
    }

    /// This much later.
    pub fn plus(self, d: std::time::Duration) -> Self {
        let micros = i64::try_from(d.as_micros()).unwrap_or(i64::MAX);
        Self::from_micros(self.micros().saturating_add(micros))
    }
}

impl From<jiff::Timestamp> for Time {
    fn from(t: jiff::Timestamp) -> Self {
        Self::from_micros(t.as_microsecond())
    }
}

impl From<Time> for jiff::Timestamp {
    fn from(t: Time) -> Self {
        t.0
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Time {
    type Err = jiff::Error;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Ok(Self::from_micros(
            s.parse::<jiff::Timestamp>()?.as_microsecond(),
        ))
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_text_and_number() {
        let t = Time::from_micros(1_759_579_200_123_456);
        assert_eq!(t.to_string(), "2025-10-04T12:00:00.123456Z");
        assert_eq!(t.to_string().parse::<Time>().unwrap(), t);
        assert_eq!(Time::from_micros(t.micros()), t);
        assert_eq!(t.short(), "2025-10-04 12:00:00");
    }

    #[test]
    fn an_impossible_number_is_no_panic() {
        assert_eq!(Time::from_micros(i64::MAX).micros(), 0);
        let late = Time::from_micros(1).plus(std::time::Duration::MAX);
        assert_eq!(late.micros(), 0);
    }
}
