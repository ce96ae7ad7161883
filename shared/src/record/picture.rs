//! A picture of the page: what a record says of it, and whether given bytes are it.

use std::net::SocketAddr;

use super::Span;
use crate::target::Sha256;

/// Largest picture, in bytes: what a metered line of somebody else's can spare, and a page is readable at.
pub const PICTURE_LEN_MAX: u64 = 150_000;

/// A picture of the page as a browser shows it; its bytes travel apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Screenshot {
    /// Digest of the picture's bytes; of nothing where there is a failure.
    pub sha256: Sha256,
    pub len: u64,
    /// `image/webp` or `image/png`.
    pub media_type: String,
    /// The address the browser was pinned to.
    pub address: SocketAddr,
    pub span: Span,
    /// Why there is no picture.
    pub failure: Option<String>,
}

impl Screenshot {
    /// How a file with it is called; `None` for what is no picture of ours.
    pub fn extension(&self) -> Option<&'static str> {
        match self.media_type.as_str() {
            "image/webp" => Some("webp"),
            "image/png" => Some("png"),
            _ => None,
        }
    }

    /// Whether it says to be as long as a picture may be.
    pub fn has_fair_len(&self) -> bool {
        (1..=PICTURE_LEN_MAX).contains(&self.len)
    }

    /// Whether these bytes are the picture: their number, their digest, and a beginning as its kind has it, so that what
    /// an operator opens is a picture at least in name.
    pub fn is_of(&self, bytes: &[u8]) -> bool {
        let begins = match self.extension() {
            Some("webp") => bytes.starts_with(b"RIFF") && bytes.get(8..12) == Some(b"WEBP"),
            Some(_) => bytes.starts_with(b"\x89PNG\r\n\x1a\n"),
            None => false,
        };
        begins && bytes.len() as u64 == self.len && self.has_fair_len() && Sha256::of(bytes) == self.sha256
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_bytes_that_are_what_was_signed_are_the_picture() {
        let picture = |bytes: &[u8], media_type: &str| Screenshot {
            sha256: Sha256::of(bytes),
            len: bytes.len() as u64,
            media_type: media_type.to_owned(),
            address: "192.0.2.1:443".parse().unwrap(),
            span: Span::default(),
            failure: None,
        };
        let (webp, png) = (b"RIFF\x04\0\0\0WEBPVP8 ".as_slice(), b"\x89PNG\r\n\x1a\nrest".as_slice());
        assert!(picture(webp, "image/webp").is_of(webp) && picture(png, "image/png").is_of(png));
        assert!(!picture(webp, "image/png").is_of(webp) && !picture(png, "text/html").is_of(png));
        assert!(!picture(webp, "image/webp").is_of(&webp[..15]));
        let lied = Screenshot { len: 3, ..picture(webp, "image/webp") };
        assert!(!lied.is_of(webp));
        let large = [webp, &vec![0; PICTURE_LEN_MAX as usize]].concat();
        assert!(!picture(&large, "image/webp").is_of(&large));
    }
}
