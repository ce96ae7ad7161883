//! What servers on the network answer.

use super::Seed;

const A: u16 = 1;
const CNAME: u16 = 5;
const AAAA: u16 = 28;
const OPT: u16 = 41;
const HTTPS: u16 = 65;

pub fn seeds() -> Vec<Seed> {
    let page = "text/html; charset=utf-8\n<html><title>Mirror</title><p>canary-6d1f</p></html>";
    let portal =
        "0; url=http://login.example/?id=7\n<meta http-equiv=refresh content='3; url=http://login.example/'>";
    let mut seeds: Vec<Seed> = vec![
        ("dns", "a", answer(A, 0x8180, &[(A, &[192, 0, 2, 1]), (A, &[10, 0, 0, 1])])),
        (
            "dns",
            "aaaa",
            answer(AAAA, 0x8180, &[(CNAME, b"\x04edge\xc0\x13"), (AAAA, &[0x20; 16]), (OPT, &[])]),
        ),
        ("dns", "nxdomain", answer(A, 0x8183, &[])),
        ("dns", "https", answer(HTTPS, 0x81a0, &[(HTTPS, &service())])),
        ("page", "mirror", page.as_bytes().to_vec()),
        (
            "page",
            "cyrillic",
            b"text/html; charset=windows-1251\n<title>\xc4\xee\xf1\xf2\xf3\xef</title>".to_vec(),
        ),
        ("page", "portal", portal.as_bytes().to_vec()),
        ("page", "nothing", b"text/plain\nhello".to_vec()),
        ("page", "alt_svc", b"h3=\":443\"; ma=86400\n".to_vec()),
    ];
    let answers: [(&'static str, &str); 5] = [
        ("whole", "HTTP/1.1 200 OK\r\ncontent-length: 11\r\nserver: x\r\n\r\ncanary-6d1f"),
        (
            "chunked",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\n<titl\r\n6;x=y\r\ne>a</t\r\n0\r\nx-cache: b\r\n\r\n",
        ),
        ("redirect", "HTTP/1.1 302 Found\r\nlocation: http://10.0.0.1/\r\ncontent-length: 0\r\n\r\n"),
        ("endless", "HTTP/1.0 200 OK\r\ncontent-type: text/html\r\n\r\n<title>no length</title>"),
        ("early", "HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n"),
    ];
    seeds.extend(answers.map(|(name, text)| ("http_answer", name, text.as_bytes().to_vec())));
    let urls: [(&'static str, &str); 4] = [
        ("plain", "https://mirror.example/a/b?c#d\n/e\n../f?g\nhttp://other.example:8080/"),
        (
            "addresses",
            "http://192.0.2.1:8080/\nhttp://[2001:db8::1]/\nhttp://0xa.1/\nhttp://[::ffff:10.0.0.1]/",
        ),
        ("names", "http://пример.рф/\nhttp://xn--e1afmkfd.xn--p1ai/\n//MIRROR.example./x\n"),
        ("collector", "quic://collector.example:8445"),
    ];
    seeds.extend(urls.map(|(name, text)| ("url", name, text.as_bytes().to_vec())));
    let targets: [(&'static str, &str); 2] =
        [("json", "/signal/secret/kz.json?carrier=kz-kcell&http=1"), ("text", "/signal/secret/ru.txt?x")];
    seeds.extend(targets.map(|(name, text)| ("signal", name, text.as_bytes().to_vec())));
    seeds
}

/// A response to the question for `mirror.example`.
fn answer(question: u16, flags: u16, records: &[(u16, &[u8])]) -> Vec<u8> {
    let mut bytes = vec![0x12, 0x34];
    let additional = records.iter().filter(|(kind, _)| *kind == OPT).count();
    for number in [flags, 1, (records.len() - additional) as u16, 0, additional as u16] {
        bytes.extend_from_slice(&number.to_be_bytes());
    }
    bytes.extend_from_slice(b"\x06mirror\x07example\0");
    bytes.extend_from_slice(&question.to_be_bytes());
    bytes.extend_from_slice(&[0, 1]);
    for (kind, data) in records {
        // The question's name, or none; the class, or the payload's size.
        let (name, class): (&[u8], u16) = if *kind == OPT { (&[0], 1_232) } else { (&[0xc0, 12], 1) };
        bytes.extend_from_slice(name);
        bytes.extend_from_slice(&kind.to_be_bytes());
        bytes.extend_from_slice(&class.to_be_bytes());
        bytes.extend_from_slice(&[0, 0, 0, 60]);
        bytes.extend_from_slice(&(data.len() as u16).to_be_bytes());
        bytes.extend_from_slice(data);
    }
    bytes
}

/// An HTTPS record: protocols, hints of both families, an ECH configuration.
fn service() -> Vec<u8> {
    let ech =
        super::crypto::seeds().into_iter().find(|(target, _, _)| *target == "ech").expect("there is one").2;
    let parameters: [(u16, Vec<u8>); 4] =
        [(1, b"\x02h2\x02h3".to_vec()), (4, vec![192, 0, 2, 1, 192, 0, 2, 2]), (5, ech), (6, vec![0x20; 16])];
    let mut bytes = vec![0, 1, 0];
    for (key, value) in parameters {
        bytes.extend_from_slice(&key.to_be_bytes());
        bytes.extend_from_slice(&(value.len() as u16).to_be_bytes());
        bytes.extend_from_slice(&value);
    }
    bytes
}
