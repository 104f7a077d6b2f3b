//! Lists against a model of single bytes, pages against lists.

use proptest::prelude::*;

use super::*;

const KIB: u64 = 1024;

fn range(start: u64, len: u64) -> GuestRange {
    GuestRange::new(start, len).unwrap()
}

fn list(ranges: &[(u64, u64)]) -> ChangeList {
    ranges.iter().map(|(s, l)| range(*s, *l)).collect()
}

fn pairs(list: &ChangeList) -> Vec<(u64, u64)> {
    list.iter().map(|r| (r.start().get(), r.len())).collect()
}

fn parse(json: &str) -> Result<ChangeList> {
    ChangeList::parse_json(json.as_bytes(), 1 << 20, ParseLimits::default())
}

#[test]
fn ranges_are_sorted_merged_and_totalled() {
    let l = list(&[
        (8192, 4096),
        (0, 512),
        (512, 512),
        (8000, 300),
        (5, 0),
        (9000, 10),
    ]);
    assert_eq!(pairs(&l), [(0, 1024), (8000, 4288)]);
    assert_eq!(l.total(), 1024 + 4288);
    assert_eq!((l.len(), l.is_empty(), l.end()), (2, false, 12288));
    assert!(ChangeList::default().is_empty());
    assert_eq!(pairs(&ChangeList::whole(7)), [(0, 7)]);
    assert!(ChangeList::whole(0).is_empty());
}

#[test]
fn containment_is_of_whole_ranges() {
    let l = list(&[(10, 10), (30, 10)]);
    assert!(l.contains(range(10, 10)) && l.contains(range(39, 1)) && l.contains(range(5, 0)));
    assert!(!l.contains(range(10, 11)) && !l.contains(range(9, 2)) && !l.contains(range(15, 20)));
    assert!(l.intersects(range(0, 11)) && l.intersects(range(15, 20)));
    assert!(!l.intersects(range(20, 10)) && !l.intersects(range(12, 0)));
    assert!(!l.intersects(range(40, 100)));
}

#[test]
fn aligning_widens_and_clipping_cuts() {
    let l = list(&[(1, 1), (65535, 2), (200_000, 1)]).align_out(64 * KIB);
    assert_eq!(pairs(&l), [(0, 128 * KIB), (192 * KIB, 64 * KIB)]);
    let l = l.clip(192 * KIB + 1);
    assert_eq!(pairs(&l), [(0, 128 * KIB), (192 * KIB, 1)]);
    assert_eq!(pairs(&l.clone().clip(192 * KIB)), [(0, 128 * KIB)]);
    assert!(l.clone().clip(0).is_empty());
    assert!(l.check_within(192 * KIB).is_err() && l.check_within(192 * KIB + 1).is_ok());
    let top = list(&[(u64::MAX - 5, 5)]).align_out(4096);
    assert_eq!(top.end(), u64::MAX);
}

#[test]
fn both_json_forms_read_the_same() {
    let bare = parse(r#"[{"offset":4096,"length":512},{"length":4096,"offset":0,"type":1}]"#);
    let held = parse(r#" {"disk":{"id":0},"changes":[{"offset":0,"length":4608}]} "#);
    assert_eq!(bare.unwrap(), held.unwrap());
    assert!(parse("[]").unwrap().is_empty());
}

#[test]
fn json_that_is_cut_or_of_another_disk_is_refused() {
    for (json, says) in [
        ("", "not as it should be"),
        ("null", "not as it should be"),
        ("{}", "missing field `changes`"),
        (r#"{"changes":{"changes":[]}}"#, "not as it should be"),
        (r#"{"changes":[],"changes":[]}"#, "duplicate field"),
        (r#"[{"offset":0,"length":512}"#, "EOF"),
        (r#"[{"offset":0,"length":512}]x"#, "something follows"),
        (r#"[{"offset":0}]"#, "missing field `length`"),
        (r#"[{"offset":0,"offset":1,"length":1}]"#, "duplicate field"),
        (r#"[{"offset":-1,"length":1}]"#, "not as it should be"),
        (r#"[{"offset":1.5,"length":1}]"#, "not as it should be"),
        (r#"[{"offset":"0","length":1}]"#, "not as it should be"),
        (r#"[{"offset":0,"length":0}]"#, "has no length"),
        (r#"[{"offset":1048576,"length":1}]"#, "past the disk's end"),
        (
            r#"[{"offset":18446744073709551615,"length":1}]"#,
            "past the disk's end",
        ),
    ] {
        let e = parse(json).unwrap_err();
        assert_eq!(e.kind, ErrorKind::BadExtents, "{json}");
        assert!(e.detail.contains(says), "{json}: {}", e.detail);
    }
}

#[test]
fn a_list_over_the_limits_is_refused_as_too_large() {
    let limits = ParseLimits {
        max_bytes: 60,
        max_extents: 1,
    };
    let one = br#"[{"offset":0,"length":1}]"#;
    let two = br#"[{"offset":0,"length":1},{"offset":5,"length":1}]"#;
    assert!(ChangeList::parse_json(one, 10, limits).is_ok());
    for json in [two.as_slice(), &[b' '; 61]] {
        let e = ChangeList::parse_json(json, 10, limits).unwrap_err();
        assert_eq!(e.kind, ErrorKind::TooLarge);
    }
}

/// Gives a text out in pieces of these lengths, over and over; then ends, or fails.
struct Pieces<'a> {
    text: &'a [u8],
    lengths: std::iter::Cycle<std::slice::Iter<'a, usize>>,
    cut: bool,
}

impl<'a> Pieces<'a> {
    fn of(text: &'a [u8], lengths: &'a [usize], cut: bool) -> Self {
        let lengths = lengths.iter().cycle();
        Self { text, lengths, cut }
    }
}

impl Read for Pieces<'_> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        if self.text.is_empty() && self.cut {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let most = *self.lengths.next().unwrap();
        let n = most.min(buf.len()).min(self.text.len());
        let (piece, rest) = self.text.split_at(n);
        buf[..n].copy_from_slice(piece);
        self.text = rest;
        Ok(n)
    }
}

#[test]
fn a_text_that_breaks_off_gives_no_list_wherever_it_does() {
    let text = br#" {"disk":{"id":"\"]"},"changes":[{"offset":0,"length":512}]} "#;
    // The last ones hold the whole list: only that the reader failed tells it from a sound one.
    for n in 0..=text.len() {
        let cut = Pieces::of(&text[..n], &[3], true);
        let e = ChangeList::read_json(cut, 1 << 20, ParseLimits::default()).unwrap_err();
        assert_eq!(e.kind, ErrorKind::Truncated, "{n}: {e}");
    }
    assert!(ChangeList::parse_json(text, 1 << 20, ParseLimits::default()).is_ok());
}

#[test]
fn what_a_text_makes_the_parser_keep_is_bounded() {
    let long = "x".repeat(1 << 20);
    let deep = "[".repeat(1 << 20);
    let digits = "7".repeat(1 << 20);
    for json in [
        format!(r#"{{"{long}":1,"changes":[]}}"#),
        format!(r#"[{{"offset":0,"length":"{long}"}}]"#),
        format!(r#"[{{"{long}":0,"length":1}}]"#),
        format!(r#"{{"disk":{deep}"#),
        format!(r#"[{{"offset":0,"length":1,"more":{digits}}}]"#),
    ] {
        let e = parse(&json).unwrap_err();
        assert_eq!(e.kind, ErrorKind::TooLarge, "{}", e.detail);
        assert!(e.detail.contains("65536"), "{}", e.detail);
    }
    // What stays below is taken, or refused without being told again at length.
    let (long, deep) = ("x".repeat(60_000), "[".repeat(60_000) + &"]".repeat(60_000));
    assert!(parse(&format!(r#"{{"{long}":"{long}","d":{deep},"changes":[]}}"#)).is_ok());
    let many = r#""a\\\"b": [1, "{"], "#.repeat(10_000);
    assert!(parse(&format!(r#"{{{many} "changes":[]}}"#)).is_ok());
    let e = parse(&format!(r#"[{{"offset":"{long}","length":1}}]"#)).unwrap_err();
    assert_eq!(e.kind, ErrorKind::BadExtents);
    assert!(e.detail.len() < 500 && e.detail.contains("line 1"), "{e}");
}

#[test]
fn the_first_of_two_faults_is_told_whatever_the_pieces() {
    let limits = ParseLimits {
        max_bytes: 40,
        max_extents: 1,
    };
    let blank = " ".repeat(60);
    for (json, kind) in [
        (format!("[}}{blank}"), ErrorKind::BadExtents),
        (format!("[{blank}}}"), ErrorKind::TooLarge),
        (
            // Too many, and no list either.
            r#"[{"offset":0,"length":1},{"offset":5,"le"#.to_owned(),
            ErrorKind::BadExtents,
        ),
    ] {
        for lengths in [[1], [7], [4096]] {
            let pieces = Pieces::of(json.as_bytes(), &lengths, false);
            let e = ChangeList::read_json(pieces, 10, limits).unwrap_err();
            assert_eq!(e.kind, kind, "{json}: {e}");
        }
    }
}

/// Cuts `extents` into pages of at most `per_page`, as a hypervisor does: the last page covers up
/// to the capacity, the others up to the end of their last extent.
fn pages(extents: &[(u64, u64)], per_page: usize, capacity: u64) -> Vec<Page> {
    let mut start = 0;
    let mut out = Vec::new();
    let mut chunks = extents.chunks(per_page).peekable();
    while let Some(chunk) = chunks.next() {
        let end = match (chunks.peek(), chunk.last()) {
            (Some(_), Some((o, l))) => o + l,
            _ => capacity,
        };
        out.push(Page {
            start,
            length: end - start,
            extents: chunk.to_vec(),
        });
        start = end;
    }
    if start < capacity {
        out.push(Page {
            start,
            length: capacity - start,
            extents: Vec::new(),
        });
    }
    out
}

#[test]
fn pages_of_2000_extents_lose_none() {
    for count in [0u64, 1, 1999, 2000, 2001, 4000, 100_000] {
        let extents: Vec<_> = (0..count).map(|i| (i * 128 * KIB, 64 * KIB)).collect();
        let capacity = count * 128 * KIB + 512;
        let mut pages = pages(&extents, 2000, capacity).into_iter();
        let mut pager = Pager::new(capacity);
        while let Some(at) = pager.next_start() {
            let page = pages.next().unwrap();
            assert_eq!(page.start, at);
            pager.give(page).unwrap();
        }
        assert!(pages.next().is_none());
        let changes = pager.finish().unwrap();
        assert_eq!(changes.len() as u64, count);
        assert_eq!(changes.total(), count * 64 * KIB);
    }
}

#[test]
fn a_disk_of_no_bytes_needs_no_page() {
    let pager = Pager::new(0);
    assert_eq!(pager.next_start(), None);
    assert!(pager.finish().unwrap().is_empty());
}

#[test]
fn an_answer_that_could_lose_a_block_is_refused() {
    let page = |start, length, extents: &[(u64, u64)]| Page {
        start,
        length,
        extents: extents.to_vec(),
    };
    for (bad, says) in [
        (page(0, 1000, &[]), "begins at 0"),
        (page(600, 400, &[]), "begins at 600"),
        (page(500, 0, &[]), "covers nothing"),
        (page(500, 501, &[]), "past the disk's end"),
        (page(500, u64::MAX, &[]), "past the disk's end"),
        (page(500, 500, &[(600, 0)]), "has no length"),
        (page(500, 500, &[(499, 2)]), "overlapping or out of order"),
        (
            page(500, 500, &[(600, 10), (605, 10)]),
            "overlapping or out of order",
        ),
        (
            page(500, 500, &[(600, 10), (500, 10)]),
            "overlapping or out of order",
        ),
        (page(500, 400, &[(890, 11)]), "leaves its page"),
        (page(500, 400, &[(890, u64::MAX)]), "leaves its page"),
    ] {
        let mut pager = Pager::new(1000);
        pager.give(page(0, 500, &[(0, 10)])).unwrap();
        let e = pager.give(bad).unwrap_err();
        assert_eq!(e.kind, ErrorKind::BadExtents);
        assert!(e.detail.contains(says), "{}", e.detail);
        // A refused page cannot be talked away by a good one.
        assert_eq!(pager.next_start(), None);
        assert!(pager.give(page(500, 500, &[])).is_err());
        assert!(pager.finish().is_err());
    }
    let mut pager = Pager::new(1000).with_max_extents(1);
    let e = pager.give(page(0, 1000, &[(0, 1), (2, 1)])).unwrap_err();
    assert_eq!(e.kind, ErrorKind::TooLarge);
    let mut pager = Pager::new(1000);
    pager.give(page(0, 999, &[])).unwrap();
    assert!(
        pager
            .clone()
            .finish()
            .unwrap_err()
            .detail
            .contains("999 of 1000")
    );
    pager.give(page(999, 1, &[])).unwrap();
    assert!(pager.give(page(1000, 1, &[])).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn a_list_names_the_bytes_that_its_ranges_name(
        ranges in prop::collection::vec((0u64..300, 0u64..40), 0..12),
        unit in 1u64..20,
        size in 0u64..340,
        probe in (0u64..340, 0u64..20),
    ) {
        let l = list(&ranges);
        let named = |b: u64| ranges.iter().any(|(s, n)| (*s..s + n).contains(&b));
        let in_list = |l: &ChangeList, b| l.contains(range(b, 1));
        for b in 0..400 {
            prop_assert_eq!(in_list(&l, b), named(b));
        }
        let touching = l.ranges().windows(2).any(|w| w[0].end() >= w[1].start());
        prop_assert!(!touching);
        let p = range(probe.0, probe.1);
        prop_assert_eq!(l.contains(p), (probe.0..probe.0 + probe.1).all(named));
        prop_assert_eq!(l.intersects(p), (probe.0..probe.0 + probe.1).any(named));
        let aligned = l.clone().align_out(unit);
        for b in 0..400 {
            let first = b - b % unit;
            prop_assert_eq!(in_list(&aligned, b), (first..first + unit).any(named));
        }
        let mut done = RangeSet::new();
        done.insert(p);
        let missing = l.subtract(&done);
        for b in 0..400 {
            prop_assert_eq!(in_list(&missing, b), named(b) && !done.contains(range(b, 1)));
        }
        let cut = l.clone().clip(size);
        for b in 0..400 {
            prop_assert_eq!(in_list(&cut, b), named(b) && b < size);
        }
    }

    #[test]
    fn any_paging_of_a_list_gives_the_list(
        gaps in prop::collection::vec((0u64..3, 1u64..5), 0..60),
        per_page in 1usize..9,
        tail in 0u64..4,
    ) {
        let mut at = 0;
        let mut extents = Vec::new();
        for (gap, len) in gaps {
            extents.push((at + gap, len));
            at += gap + len;
        }
        let capacity = at + tail;
        let mut pager = Pager::new(capacity);
        for page in pages(&extents, per_page, capacity) {
            prop_assert_eq!(pager.next_start(), Some(page.start));
            pager.give(page).unwrap();
        }
        prop_assert_eq!(pager.next_start(), None);
        prop_assert_eq!(pager.finish().unwrap(), list(&extents));
    }

    #[test]
    fn a_dropped_or_repeated_page_is_always_noticed(
        count in 3u64..40, per_page in 1usize..5, which in 0usize..100, twice in any::<bool>(),
    ) {
        let extents: Vec<_> = (0..count).map(|i| (i * 10, 5)).collect();
        let mut all = pages(&extents, per_page, count * 10);
        let n = which % all.len();
        let page = all.remove(n);
        if twice {
            all.insert(n, page.clone());
            all.insert(n, page);
        }
        let mut pager = Pager::new(count * 10);
        let given: Result<Vec<()>> = all.into_iter().map(|p| pager.give(p)).collect();
        prop_assert!(given.is_err() || pager.finish().is_err());
    }

    #[test]
    fn pieces_of_any_length_read_as_the_whole_text(
        extents in prop::collection::vec((0u64..1000, 0u64..40), 0..20),
        lengths in prop::collection::vec(1usize..30, 1..6),
        held in any::<bool>(),
        harm in prop::option::of((any::<prop::sample::Index>(), any::<u8>())),
        max_bytes in prop::option::of(0usize..600),
        max_extents in 1usize..30,
    ) {
        let all: Vec<_> = extents
            .iter()
            .map(|(o, l)| format!(r#"{{"offset": {o},"length":{l}, "t\"]":[{{}},"}}"]}}"#))
            .collect();
        let mut text = format!("[{}]", all.join(","));
        if held {
            text = format!(r#"{{"of":[{{"a":null}}],"changes":{text} ,"x":-1.5e3}}"#);
        }
        let mut text = text.into_bytes();
        if let Some((at, byte)) = harm {
            let at = at.index(text.len());
            text[at] = byte;
        }
        let limits = ParseLimits {
            max_bytes: max_bytes.unwrap_or(1 << 20),
            max_extents,
        };
        let whole = ChangeList::parse_json(&text, 1040, limits);
        let pieces = Pieces::of(&text, &lengths, false);
        prop_assert_eq!(&ChangeList::read_json(pieces, 1040, limits), &whole);
        let fits = text.len() <= limits.max_bytes && extents.len() <= max_extents;
        if harm.is_none() && fits && extents.iter().all(|(_, l)| *l > 0) {
            prop_assert_eq!(whole.unwrap(), list(&extents));
        }
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in "[\\[\\]{}\",:a-z0-9 ]{0,60}") {
        let _ = parse(&text);
    }
}
