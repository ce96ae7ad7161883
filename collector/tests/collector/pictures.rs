//! Pictures at the collector: taken in only where a journaled record of the same agent names them, asked for, fetched.

use tonic::Code;
use zerkalo_core::record::{PICTURE_LEN_MAX, Screenshot, Span};
use zerkalo_core::target::Sha256;
use zerkalo_proto::agent_v1::stream_request::Message as Up;
use zerkalo_proto::agent_v1::stream_response::Message as Down;
use zerkalo_proto::agent_v1::{Picture, PictureAnswer};
use zerkalo_proto::code::code_of;
use zerkalo_proto::operator_v1::{FetchPictureRequest, ListPicturesRequest, RequestProbeRequest};

use crate::world::*;

fn webp(number: u8, len: usize) -> Vec<u8> {
    [b"RIFF\0\0\0\0WEBP".as_slice(), &vec![number; len - 12]].concat()
}

/// The next statement: of a picture, and nothing else.
fn tell_of(agent: &mut Agent, content: &[u8], failure: Option<&str>) -> zerkalo_core::evidence::SignedRecord {
    let mut facts = facts("m1");
    facts.http.clear();
    facts.screenshot = Some(Screenshot {
        sha256: Sha256::of(content),
        len: content.len() as u64,
        media_type: "image/webp".to_owned(),
        address: "192.0.2.1:443".parse().unwrap(),
        span: Span::default(),
        failure: failure.map(str::to_owned),
    });
    agent.sign(body(&facts))
}

async fn offer(link: &mut Link, digest: Sha256, content: &[u8]) -> String {
    let (sha256, media_type) = (digest.0.to_vec(), "image/webp".to_owned());
    link.send(Up::Picture(Picture { sha256, media_type, content: content.to_vec() })).await;
    match link.next().await {
        Some(Down::Picture(PictureAnswer { sha256, code, .. })) => {
            assert_eq!(sha256, digest.0);
            code
        }
        other => panic!("instead of an answer: {other:?}"),
    }
}

#[tokio::test]
async fn a_picture_is_kept_only_if_a_record_of_the_same_agent_names_it() {
    let site = Site::new();
    let collector = site.serve().await;
    collector.put_list(&site, 1, &["m1"]).await;
    let mut agent = collector.enrol(&site, "o1", "kz-kcell").await;
    let other = collector.enrol(&site, "o2", "kz-beeline").await;
    let (mut link, welcome) = collector.connect(&site, &agent).await;
    let (mut others, _) = collector.connect(&site, &other).await;
    assert!(welcome.takes_pictures);
    let (picture, large) = (webp(1, 9_000), webp(2, PICTURE_LEN_MAX as usize + 1));
    let digest = Sha256::of(&picture);

    assert_eq!(offer(&mut link, digest, &picture).await, "picture_unknown");
    let blind = "the page's scripts do not end";
    let records = [
        tell_of(&mut agent, &picture, None),
        tell_of(&mut agent, &large, None),
        tell_of(&mut agent, b"", Some(blind)),
    ];
    link.send_records(&records).await;
    link.acked(3).await;
    assert_eq!(offer(&mut others, digest, &picture).await, "picture_unknown", "of another agent");
    assert_eq!(offer(&mut link, digest, &webp(3, 9_000)).await, "picture_malformed");
    assert_eq!(
        offer(&mut link, Sha256::of(&large), &large).await,
        "picture_unknown",
        "too large to be named"
    );
    assert_eq!(offer(&mut link, Sha256::of(b""), b"").await, "picture_unknown", "a failure names no bytes");
    assert_eq!(offer(&mut link, digest, &picture).await, "");
    assert_eq!(offer(&mut link, digest, &picture).await, "", "twice is as good");
    // Pictures refused stop no stream.
    let healthy = agent.measure("m1");
    link.send_records(&[healthy]).await;
    link.acked(4).await;
    assert_eq!(collector.metric("zerkalo_picture_store_bytes").await, 9_000);
    assert_eq!(collector.metric("zerkalo_pictures_refused_total{code=\"picture_unknown\"}").await, 4);

    collector.stop().await;
    let collector = site.serve().await;
    let mut operator = collector.operator(&site).await;
    let request = ListPicturesRequest { mirror: "m1".to_owned(), limit: 0 };
    let listed = operator.list_pictures(request).await.unwrap().into_inner().pictures;
    let shown: Vec<_> =
        listed.iter().map(|shown| (shown.failure.as_str(), shown.stored, shown.len)).collect();
    assert_eq!(shown, [(blind, false, 0), ("", true, 9_000)]);
    assert_eq!((listed[1].owner.as_str(), listed[1].carrier.as_str()), ("o1", "kz-kcell"));
    for hash in [digest.to_string(), records[0].hash().to_string()] {
        let found = operator.fetch_picture(FetchPictureRequest { sha256: hash }).await.unwrap().into_inner();
        assert_eq!((found.content, found.picture.as_ref()), (picture.clone(), Some(&listed[1])));
    }
    for (hash, code) in [
        (records[2].hash().to_string(), "no_picture"),
        (Sha256::of(b"x").to_string(), "unknown_picture"),
        ("../../etc".to_owned(), "bad_request"),
    ] {
        let status = operator.fetch_picture(FetchPictureRequest { sha256: hash }).await.unwrap_err();
        assert_eq!(code_of(&status), Some(code));
    }
    let path = site.dir.join("pictures").join(&digest.to_string()[..2]).join(format!("{digest}.webp"));
    std::fs::remove_file(path).unwrap();
    let status =
        operator.fetch_picture(FetchPictureRequest { sha256: digest.to_string() }).await.unwrap_err();
    assert_eq!(code_of(&status), Some("picture_not_stored"));
    collector.stop().await;
}

#[tokio::test]
async fn a_probe_asked_for_reaches_the_agents_meant_and_no_other() {
    let site = Site::new();
    let collector = site.serve().await;
    collector.put_list(&site, 1, &["m1"]).await;
    let (near, far, absent) = (
        collector.enrol(&site, "o1", "kz-kcell").await,
        collector.enrol(&site, "o2", "ru-mts").await,
        collector.enrol(&site, "o3", "kz-beeline").await,
    );
    let ((mut link, _), (mut other, _)) =
        (collector.connect(&site, &near).await, collector.connect(&site, &far).await);
    let mut operator = collector.operator(&site).await;
    let request = |mirror: &str, agents: &[&Agent], picture| RequestProbeRequest {
        mirror: mirror.to_owned(),
        agents: agents.iter().map(|agent| agent.id.to_string()).collect(),
        picture,
    };
    let asked = operator.request_probe(request("m1", &[&near, &absent], true)).await.unwrap().into_inner();
    assert_eq!(asked.agents, [near.id.to_string()], "who is not on the uplink hears nothing");
    match link.next().await {
        Some(Down::ProbeNow(wish)) => assert_eq!((wish.mirror.as_str(), wish.picture), ("m1", true)),
        other => panic!("instead of a wish: {other:?}"),
    }
    // The mirror is in both markets; the first wish the other agent hears is the second.
    let all = operator.request_probe(request("m1", &[], false)).await.unwrap().into_inner().agents;
    assert_eq!(all.len(), 2);
    match other.next().await {
        Some(Down::ProbeNow(wish)) => assert!(!wish.picture),
        other => panic!("instead of a wish: {other:?}"),
    }
    let status = operator.request_probe(request("m9", &[], false)).await.unwrap_err();
    assert_eq!((status.code(), code_of(&status)), (Code::NotFound, Some("unknown_mirror")));
    let mut stranger = request("m1", &[], false);
    stranger.agents.push("kz-kcell-nobody".to_owned());
    let status = operator.request_probe(stranger).await.unwrap_err();
    assert_eq!(code_of(&status), Some("unknown_agent"));
    collector.stop().await;
}
