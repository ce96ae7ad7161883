//! What is kept of a page: its title, its beginning as text, whether the canary stands in it. Judges nothing.

use crate::record::EXCERPT_LEN_MAX;

/// Bytes of a page searched for its title and its character set.
const HEAD_LEN_MAX: usize = 64 * 1024;
/// Bytes kept of a title.
const TITLE_LEN_MAX: usize = 256;
/// Windows-1251, the upper half up to 0xBF; the letters А to я follow it in order.
const WINDOWS_1251: &str =
    "ЂЃ‚ѓ„…†‡€‰Љ‹ЊЌЋЏђ‘’“”•–—\u{fffd}™љ›њќћџ\u{a0}ЎўЈ¤Ґ¦§Ё©Є«¬\u{ad}®Ї°±Ііґµ¶·ё№є»јЅѕї";

/// Whether `canary` stands in the body.
pub fn holds(body: &[u8], canary: &str) -> bool {
    body.windows(canary.len().max(1)).any(|window| window == canary.as_bytes())
}

/// The page's title, white space collapsed.
pub fn title(body: &[u8], content_type: Option<&str>) -> Option<String> {
    let head = &body[..body.len().min(HEAD_LEN_MAX)];
    let lower = head.to_ascii_lowercase();
    let open = find(&lower, b"<title")?;
    let start = open + find(&lower[open..], b">")? + 1;
    let end = start + find(&lower[start..], b"</title")?;
    let words = without_controls(&text(&head[start..end], charset(body, content_type)));
    let mut title = words.split_whitespace().collect::<Vec<_>>().join(" ");
    cut(&mut title, TITLE_LEN_MAX);
    Some(title)
}

/// The page's beginning as text, as a record keeps it.
pub fn excerpt(body: &[u8], content_type: Option<&str>) -> String {
    let head = &body[..body.len().min(EXCERPT_LEN_MAX)];
    let mut excerpt = without_controls(&decoded(head, content_type));
    cut(&mut excerpt, EXCERPT_LEN_MAX);
    excerpt
}

/// A page as text; what is no character of its set becomes U+FFFD.
pub fn decoded(body: &[u8], content_type: Option<&str>) -> String {
    text(body, charset(body, content_type))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Charset {
    Utf8,
    /// What many block pages still speak.
    Windows1251,
}

fn charset(body: &[u8], content_type: Option<&str>) -> Charset {
    let named = |text: &[u8]| find(text, b"windows-1251").is_some() || find(text, b"cp1251").is_some();
    let head = body[..body.len().min(1_024)].to_ascii_lowercase();
    let declared = content_type.is_some_and(|value| named(value.to_ascii_lowercase().as_bytes()));
    if declared || named(&head) { Charset::Windows1251 } else { Charset::Utf8 }
}

fn text(bytes: &[u8], charset: Charset) -> String {
    match charset {
        Charset::Utf8 => String::from_utf8_lossy(bytes).into_owned(),
        Charset::Windows1251 => bytes.iter().map(|byte| windows_1251(*byte)).collect(),
    }
}

fn windows_1251(byte: u8) -> char {
    match byte {
        0..=0x7f => char::from(byte),
        0x80..=0xbf => WINDOWS_1251.chars().nth(usize::from(byte - 0x80)).unwrap_or('\u{fffd}'),
        0xc0..=0xff => char::from_u32(0x410 + u32::from(byte - 0xc0)).unwrap_or('\u{fffd}'),
    }
}

/// Spaces in the place of what is no character to read, line ends and tabs apart.
fn without_controls(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && !matches!(c, '\n' | '\t') { ' ' } else { c }).collect()
}

/// Cuts to at most `len_max` bytes, at a character's border.
pub(crate) fn cut(text: &mut String, len_max: usize) {
    if text.len() > len_max {
        let border = (0..=len_max).rev().find(|index| text.is_char_boundary(*index));
        text.truncate(border.unwrap_or(0));
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn titles_are_found_in_what_pages_really_hold() {
        let check = |body: &[u8], content_type, expected: Option<&str>| {
            assert_eq!(title(body, content_type).as_deref(), expected, "{body:?}");
        };
        check(b"<html><TITLE lang=x>  Two\n words </Title>", None, Some("Two words"));
        check(b"<title>\x1b[2J\0a\xc2\x9bb</title>", None, Some("[2J a b"));
        check(b"<title>never closed", None, None);
        check(b"", None, None);
        check(
            b"<title>\xc4\xee\xf1\xf2\xf3\xef</title>",
            Some("text/html; charset=Windows-1251"),
            Some("Доступ"),
        );
        check(b"<meta charset=windows-1251><title>\xa8\xb8</title>", None, Some("Ёё"));
        check("<title>Доступ</title>".as_bytes(), None, Some("Доступ"));
    }

    #[test]
    fn an_excerpt_is_bounded_text() {
        let long = "я".repeat(EXCERPT_LEN_MAX);
        let kept = excerpt(long.as_bytes(), None);
        assert!(kept.len() <= EXCERPT_LEN_MAX && kept.starts_with("яя"));
        assert_eq!(excerpt(b"a\0b", None), "a b");
        assert_eq!(WINDOWS_1251.chars().count(), 0x40);
    }

    #[test]
    fn a_canary_is_found_anywhere() {
        assert!(holds(b"xx-canary", "-canary"));
        assert!(!holds(b"can", "canary"));
    }
}
