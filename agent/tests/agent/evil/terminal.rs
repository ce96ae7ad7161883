//! What a person sees of a hostile record: text that must not drive the terminal, neither in the tree nor as JSON.

use tokio::io::AsyncWriteExt;

use super::child::{self, Scene};
use super::ground::{http, http_page};

/// Moves, colours, renames the window, writes into the clipboard, turns the direction; in one byte and in two.
const TRICKS: &str =
    "\u{1b}[2J\u{1b}]0;owned\u{7}\u{1b}]52;c;eA==\u{1b}\\\u{9b}31m\u{90}q\u{202e}evil\u{2066}\r\n\u{8}";

async fn seen(scene: Scene) -> String {
    let tree = child::tree(&scene).await.unwrap();
    assert!(!tree.chars().any(child::is_hostile), "{tree:?}");
    let run = child::probe(&scene, child::LONG_SECS).await.unwrap();
    assert!(run.record.http.iter().any(|step| step.status.is_some()));
    tree
}

#[tokio::test(flavor = "multi_thread")]
async fn a_title_cannot_drive_the_terminal() {
    let body = format!("<title>a {TRICKS} page</title>{TRICKS}");
    let tree = seen(http_page(answer("server: x", body.as_bytes())).await).await;
    assert!(tree.contains("title: a") && tree.contains("page"), "{tree}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_location_cannot_drive_the_terminal() {
    let to = format!("ftp://x.example/{}", TRICKS.replace(['\u{1b}', '\u{7}', '\r', '\n', '\u{8}'], ""));
    let head = format!("HTTP/1.1 302 Found\r\nlocation: {to}\r\ncontent-length: 0\r\n\r\n");
    let tree = seen(http_page(head.into_bytes()).await).await;
    assert!(tree.contains("redirect not followed"), "{tree}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_in_latin_letters_with_c1_bytes_cannot_drive_the_terminal() {
    let scene = http(|mut stream| async move {
        let body = [b"<title>\x9b2Jwindows\x85</title>".as_slice(), &[0x9b, 0x90]].concat();
        stream.write_all(&answer("content-type: text/html; charset=windows-1251", &body)).await
    })
    .await;
    seen(scene).await;
}

fn answer(header: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\n{header}\r\ncontent-length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}
