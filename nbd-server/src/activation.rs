//! Socket activation: which descriptors the parent handed over (LISTEN_PID, LISTEN_FDS,
//! LISTEN_FDNAMES). The values come as arguments, for a library does not read the environment;
//! taking a descriptor over is the caller's matter too.

/// The first descriptor that is handed over.
const FIRST: i32 = 3;
/// More than any sane parent hands over.
const MOST: i32 = 1024;

/// One descriptor that was handed over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Activated {
    /// The descriptor's number.
    pub fd: i32,
    /// Its name from LISTEN_FDNAMES; `unknown` where there is none.
    pub name: String,
}

/// Why the variables cannot be used.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ActivationError {
    /// A variable is no number.
    #[error("{0} is not a number: start without socket activation, or fix the parent")]
    NotANumber(&'static str),
    /// LISTEN_FDS is negative or absurd.
    #[error("LISTEN_FDS asks for {0} descriptors; 0 to 1024 are possible")]
    Count(i64),
}

/// What was handed to the process `own_pid`. Empty where nothing was, or where the variables are
/// meant for another process.
pub fn handed_over(
    listen_pid: Option<&str>,
    listen_fds: Option<&str>,
    listen_fdnames: Option<&str>,
    own_pid: u32,
) -> Result<Vec<Activated>, ActivationError> {
    let (Some(pid), Some(fds)) = (listen_pid, listen_fds) else {
        return Ok(Vec::new());
    };
    let pid: u32 = pid
        .parse()
        .map_err(|_| ActivationError::NotANumber("LISTEN_PID"))?;
    if pid != own_pid {
        return Ok(Vec::new());
    }
    let count: i64 = fds
        .parse()
        .map_err(|_| ActivationError::NotANumber("LISTEN_FDS"))?;
    let count = i32::try_from(count)
        .ok()
        .filter(|count| (0..=MOST).contains(count))
        .ok_or(ActivationError::Count(count))?;
    let mut names = listen_fdnames.unwrap_or_default().split(':');
    Ok((FIRST..FIRST + count)
        .map(|fd| {
            let name = names
                .next()
                .filter(|name| !name.is_empty())
                .unwrap_or("unknown");
            Activated {
                fd,
                name: name.to_owned(),
            }
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variables_are_read_as_the_convention_says() {
        let found = handed_over(Some("7"), Some("2"), Some("nbd:http"), 7).unwrap();
        assert_eq!(
            found[0],
            Activated {
                fd: 3,
                name: "nbd".into()
            }
        );
        assert_eq!(
            found[1],
            Activated {
                fd: 4,
                name: "http".into()
            }
        );
        let found = handed_over(Some("7"), Some("1"), None, 7).unwrap();
        assert_eq!(
            found,
            [Activated {
                fd: 3,
                name: "unknown".into()
            }]
        );
        assert_eq!(handed_over(Some("8"), Some("2"), None, 7), Ok(Vec::new()));
        assert_eq!(handed_over(None, Some("2"), None, 7), Ok(Vec::new()));
        let bad = handed_over(Some("7"), Some("x"), None, 7);
        assert_eq!(bad, Err(ActivationError::NotANumber("LISTEN_FDS")));
        let bad = handed_over(Some("7"), Some("-1"), None, 7);
        assert_eq!(bad, Err(ActivationError::Count(-1)));
    }
}
