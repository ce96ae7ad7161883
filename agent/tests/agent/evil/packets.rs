//! DNS messages written byte by byte, for no library writes wrong ones.

/// Bytes of the header.
const HEADER_LEN: usize = 12;
/// A pointer to the question's name.
pub const SAME_NAME: &[u8] = &[0xc0, HEADER_LEN as u8];
pub const A: u16 = 1;
pub const CNAME: u16 = 5;
pub const TXT: u16 = 16;
pub const AAAA: u16 = 28;
pub const INTERNET: u16 = 1;
/// Flags of an ordinary answer: QR, RD, RA.
pub const ANSWER: u16 = 0x8180;
/// TC, that the answer was cut.
pub const TRUNCATED: u16 = 0x0200;

/// An answer under construction.
pub struct Packet {
    pub id: u16,
    pub flags: u16,
    /// Questions, answers, authorities, additional records, as the header claims.
    pub counts: [u16; 4],
    body: Vec<u8>,
}

impl Packet {
    /// Answers `question`, with nothing so far.
    pub fn to(question: &[u8]) -> Self {
        let id = u16::from_be_bytes([question[0], question[1]]);
        let body = question[HEADER_LEN..question_end(question)].to_vec();
        Self { id, flags: ANSWER, counts: [1, 0, 0, 0], body }
    }

    /// The same with these flags.
    pub fn with_flags(self, flags: u16) -> Self {
        Self { flags, ..self }
    }

    /// Adds an answer; `name` and `data` stand as they are given.
    pub fn record(mut self, name: &[u8], kind: u16, class: u16, data: &[u8]) -> Self {
        self.counts[1] = self.counts[1].wrapping_add(1);
        self.body.extend_from_slice(name);
        self.body.extend_from_slice(&kind.to_be_bytes());
        self.body.extend_from_slice(&class.to_be_bytes());
        self.body.extend_from_slice(&60u32.to_be_bytes());
        self.body.extend_from_slice(&(data.len() as u16).to_be_bytes());
        self.body.extend_from_slice(data);
        self
    }

    /// Adds bytes that no count speaks of.
    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.body.extend_from_slice(bytes);
        self
    }

    /// As it goes over the wire.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = [self.id.to_be_bytes(), self.flags.to_be_bytes()].concat();
        self.counts.iter().for_each(|count| bytes.extend_from_slice(&count.to_be_bytes()));
        bytes.extend_from_slice(&self.body);
        bytes
    }
}

/// A name as labels.
pub fn name(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in text.split('.').filter(|label| !label.is_empty()) {
        bytes.push(label.len() as u8);
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.push(0);
    bytes
}

/// What is asked for.
pub fn kind(question: &[u8]) -> u16 {
    let end = question_end(question);
    u16::from_be_bytes([question[end - 4], question[end - 3]])
}

fn question_end(question: &[u8]) -> usize {
    let mut place = HEADER_LEN;
    while question[place] != 0 {
        place += 1 + usize::from(question[place]);
    }
    place + 5
}
