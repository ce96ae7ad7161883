//! Reads our own ClientHello back from the bytes that went out, and names it as others do: JA4 (FoxIO), by which censors
//! and those who watch them tell clients apart. Own code, for what matters is a list of numbers; nothing here comes from
//! a peer.

use std::fmt::Write;

use zerkalo_core::target::Sha256;

/// `handshake` in a record's head (RFC 8446, 5.1).
const HANDSHAKE_RECORD: u8 = 22;
/// `client_hello` in a handshake message's head (RFC 8446, 4).
const CLIENT_HELLO: u8 = 1;
/// Extensions (IANA).
const SERVER_NAME: u16 = 0;
const SIGNATURE_ALGORITHMS: u16 = 13;
const ALPN: u16 = 16;
const SUPPORTED_VERSIONS: u16 = 43;
/// Hex digits kept of a digest.
const DIGEST_LEN: usize = 12;
/// What stands for the digest of nothing.
const NO_DIGEST: &str = "000000000000";
/// The largest count that two digits hold.
const COUNT_MAX: usize = 99;

/// Over what a hello is sent: the first letter of its JA4.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    Tcp,
    Quic,
}

/// What a ClientHello offers, GREASE values (RFC 8701) left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientHello {
    /// Of the head; long frozen at TLS 1.2.
    legacy_version: u16,
    cipher_suites: Vec<u16>,
    /// In the order sent.
    extensions: Vec<u16>,
    versions: Vec<u16>,
    signature_algorithms: Vec<u16>,
    first_alpn: Vec<u8>,
    server_name: Option<String>,
}

impl ClientHello {
    /// Reads the first flight of a TLS connection; `None` where it holds no whole ClientHello.
    pub fn read(flight: &[u8]) -> Option<Self> {
        let mut records = Reader(flight);
        let mut messages = Vec::new();
        while let Some([HANDSHAKE_RECORD, _, _]) = records.take(3) {
            messages.extend_from_slice(records.list_16()?.0);
        }
        Self::read_message(&messages)
    }

    /// Reads the handshake message alone, as QUIC carries it; `None` where it is no whole ClientHello.
    pub fn read_message(message: &[u8]) -> Option<Self> {
        let mut message = Reader(message);
        let [CLIENT_HELLO, a, b, c] = *message.take(4)? else { return None };
        let body = message.take(u32::from_be_bytes([0, a, b, c]) as usize)?;
        Self::read_body(Reader(body))
    }

    /// The name a box on the way can read.
    pub fn server_name(&self) -> Option<&str> {
        self.server_name.as_deref()
    }

    /// JA4 (github.com/FoxIO-LLC/ja4, technical_details/JA4.md).
    pub fn ja4(&self, over: Over) -> String {
        let mut ciphers = self.cipher_suites.clone();
        ciphers.sort_unstable();
        let mut extensions = self.extensions.clone();
        extensions.sort_unstable();
        extensions.retain(|extension| ![SERVER_NAME, ALPN].contains(extension));
        let mut second = hex_list(&extensions);
        if !self.signature_algorithms.is_empty() {
            second = format!("{second}_{}", hex_list(&self.signature_algorithms));
        }
        format!(
            "{}{}{}{:02}{:02}{}_{}_{}",
            match over {
                Over::Tcp => 't',
                Over::Quic => 'q',
            },
            self.version(),
            if self.extensions.contains(&SERVER_NAME) { 'd' } else { 'i' },
            self.cipher_suites.len().min(COUNT_MAX),
            self.extensions.len().min(COUNT_MAX),
            self.alpn_letters(),
            digest(&hex_list(&ciphers), ciphers.is_empty()),
            digest(&second, extensions.is_empty()),
        )
    }

    fn version(&self) -> &'static str {
        match self.versions.iter().max().unwrap_or(&self.legacy_version) {
            0x0304 => "13",
            0x0303 => "12",
            0x0302 => "11",
            0x0301 => "10",
            0x0300 => "s3",
            0x0002 => "s2",
            _ => "00",
        }
    }

    /// First and last letter of the first protocol; of its hex digits where it does not begin or end with a letter.
    fn alpn_letters(&self) -> String {
        let (Some(first), Some(last)) = (self.first_alpn.first(), self.first_alpn.last()) else {
            return "00".to_owned();
        };
        if first.is_ascii_alphanumeric() && last.is_ascii_alphanumeric() {
            return [char::from(*first), char::from(*last)].iter().collect();
        }
        format!("{:x}{:x}", first >> 4, last & 0x0f)
    }

    fn read_body(mut body: Reader<'_>) -> Option<Self> {
        let mut hello = Self { legacy_version: body.number()?, ..Self::default() };
        body.take(32)?;
        body.list_8()?;
        hello.cipher_suites = body.list_16()?.numbers();
        body.list_8()?;
        // A hello of long ago may end here.
        let mut extensions = body.list_16().unwrap_or(Reader(&[]));
        while let Some(kind) = extensions.number() {
            let mut content = extensions.list_16()?;
            if is_grease(kind) {
                continue;
            }
            hello.extensions.push(kind);
            match kind {
                SERVER_NAME => hello.server_name = content.list_16().and_then(host_name),
                SIGNATURE_ALGORITHMS => hello.signature_algorithms = content.list_16()?.numbers(),
                SUPPORTED_VERSIONS => hello.versions = content.list_8()?.numbers(),
                ALPN => hello.first_alpn = content.list_16()?.list_8()?.0.to_vec(),
                _ => {}
            }
        }
        Some(hello)
    }
}

fn host_name(mut names: Reader<'_>) -> Option<String> {
    let [0] = *names.take(1)? else { return None };
    String::from_utf8(names.list_16()?.0.to_vec()).ok()
}

/// RFC 8701: both bytes the same, of the form 0x?a.
fn is_grease(number: u16) -> bool {
    let [high, low] = number.to_be_bytes();
    high == low && low & 0x0f == 0x0a
}

fn hex_list(numbers: &[u16]) -> String {
    let mut text = String::with_capacity(numbers.len() * 5);
    for (index, number) in numbers.iter().enumerate() {
        let comma = if index == 0 { "" } else { "," };
        let _infallible = write!(text, "{comma}{number:04x}");
    }
    text
}

fn digest(text: &str, is_empty: bool) -> String {
    if is_empty {
        return NO_DIGEST.to_owned();
    }
    let mut digits = Sha256::of(text.as_bytes()).to_string();
    digits.truncate(DIGEST_LEN);
    digits
}

/// What is left to read.
#[derive(Debug, Clone, Copy)]
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self) -> Option<u16> {
        self.take(2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    /// A list under a length of one byte.
    fn list_8(&mut self) -> Option<Self> {
        let len = self.take(1)?[0];
        self.take(usize::from(len)).map(Self)
    }

    /// A list under a length of two bytes.
    fn list_16(&mut self) -> Option<Self> {
        let len = self.number()?;
        self.take(usize::from(len)).map(Self)
    }

    fn numbers(mut self) -> Vec<u16> {
        std::iter::from_fn(|| self.number()).filter(|number| !is_grease(*number)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list_16(content: &[u8]) -> Vec<u8> {
        [&(content.len() as u16).to_be_bytes()[..], content].concat()
    }

    fn numbers(numbers: &[u16]) -> Vec<u8> {
        numbers.iter().flat_map(|number| number.to_be_bytes()).collect()
    }

    /// A flight with these parts, in records of at most `record_len` bytes.
    fn flight(ciphers: &[u16], extensions: &[(u16, Vec<u8>)], record_len: usize) -> Vec<u8> {
        let extensions: Vec<u8> = extensions
            .iter()
            .flat_map(|(kind, content)| [&kind.to_be_bytes()[..], &list_16(content)].concat())
            .collect();
        let body = [&[3, 3][..], &[7; 32], &[0], &list_16(&numbers(ciphers)), &[1, 0], &list_16(&extensions)]
            .concat();
        let message = [&[CLIENT_HELLO, 0][..], &list_16(&body)].concat();
        let records = message.chunks(record_len);
        records.flat_map(|part| [&[HANDSHAKE_RECORD, 3, 1][..], &list_16(part)].concat()).collect()
    }

    /// The hello of the worked example in JA4's technical details.
    fn published(record_len: usize) -> Vec<u8> {
        let ciphers = [
            0x2a2a, 0x1301, 0x1302, 0x1303, 0xc02b, 0xc02f, 0xc02c, 0xc030, 0xcca9, 0xcca8, 0xc013, 0xc014,
            0x009c, 0x009d, 0x002f, 0x0035,
        ];
        let name = [&[0][..], &list_16(b"www.example.org")].concat();
        let algorithms = [0x0403, 0x0804, 0x0401, 0x0503, 0x0805, 0x0501, 0x0806, 0x0601];
        let versions = numbers(&[0x3a3a, 0x0304, 0x0303]);
        let extensions = [
            (0x001b, vec![]),
            (0x0000, list_16(&name)),
            (0x0033, vec![]),
            (0x0010, list_16(b"\x02h2\x08http/1.1")),
            (0x4469, vec![]),
            (0x0017, vec![]),
            (0x002d, vec![]),
            (0x000d, list_16(&numbers(&algorithms))),
            (0x0005, vec![]),
            (0x0023, vec![]),
            (0x0012, vec![]),
            (0x002b, [&[versions.len() as u8][..], &versions].concat()),
            (0xff01, vec![]),
            (0x000b, vec![]),
            (0x000a, vec![]),
            (0x0015, vec![0; 9]),
            (0x8a8a, vec![0]),
        ];
        flight(&ciphers, &extensions, record_len)
    }

    #[test]
    fn the_published_example_has_its_published_name() {
        for record_len in [64, 16_384] {
            let hello = ClientHello::read(&published(record_len)).unwrap();
            assert_eq!(hello.ja4(Over::Tcp), "t13d1516h2_8daaf6152771_e5627efa2ab1");
            assert_eq!(hello.server_name(), Some("www.example.org"));
        }
    }

    #[test]
    fn what_is_missing_has_its_own_signs() {
        let check = |bytes: Vec<u8>, expected| {
            assert_eq!(ClientHello::read(&bytes).unwrap().ja4(Over::Tcp), expected);
        };
        check(flight(&[], &[], 999), "t12i000000_000000000000_000000000000");
        // The digests are those of `printf 1301 | sha256sum` and `printf 000a | sha256sum`.
        let alpn = |protocol: &[u8]| list_16(&[&[protocol.len() as u8][..], protocol].concat());
        let one = |protocol: &[u8]| flight(&[0x1301], &[(0x000a, vec![]), (ALPN, alpn(protocol))], 999);
        check(one(b"h2"), "t12i0102h2_0f2cb44170f4_a8f3e973773c");
        check(one(b"\xab"), "t12i0102ab_0f2cb44170f4_a8f3e973773c");
        check(one(b"\x30\xab\xcd\x31"), "t12i010201_0f2cb44170f4_a8f3e973773c");
        check(one(b"\xabc\x21"), "t12i0102a1_0f2cb44170f4_a8f3e973773c");
    }

    #[test]
    fn a_hello_cut_short_is_none() {
        let whole = published(200);
        assert!((0..whole.len()).all(|len| ClientHello::read(&whole[..len]).is_none()));
        assert!(ClientHello::read(b"GET / HTTP/1.1\r\n\r\n").is_none());
    }
}
