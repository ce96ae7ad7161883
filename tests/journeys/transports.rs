//! A box whose only way to the collector is QUIC, by a relay; and one whose certificate ends while its stream is open.

use std::time::{Duration, Instant};

use tokio::process::Command;

use crate::identity::{Place, text};
use crate::middlebox::{TcpBox, Trick, free_udp};
use crate::programs::{program, stage};

const STUCK: Duration = Duration::from_secs(90);
const POLL: Duration = Duration::from_millis(50);
const DAY: Duration = Duration::from_secs(86_400);
/// What is left of a certificate: a box has started and spoken twice before, on a slow machine too.
const LEFT: Duration = Duration::from_secs(12);

#[tokio::test(flavor = "multi_thread")]
async fn a_box_lives_by_quic_through_a_relay_alone() {
    let _stage = stage().await;
    let (quic, relay_at) = (free_udp(81), free_udp(82));
    // Nobody listens there by TCP; the relay shows the certificate of that name under its own.
    let urls = ["https://127.0.0.81:9".to_owned(), format!("quic://{relay_at}")];
    let place = Place::at(&urls, Some(quic)).await;
    let mut relay = Command::new(program("zerkalo-collector"));
    relay.args(["relay", "--listen", "127.0.0.82:0", "--to", "127.0.0.81:9"]);
    relay.args(["--quic-listen", &relay_at.to_string(), "--quic-to", &quic.to_string()]);
    let _relay = relay.kill_on_drop(true).spawn().unwrap();
    for (name, age) in [("renews", 4 * DAY), ("rejoins", 9 * DAY)] {
        let agent = place.enrolled(name).await;
        place.age(name, &agent, age);
        let mut running = place.run(name);
        let wanted = "its next certificate is on the line";
        place.until(&agent, wanted, |known| known.generation == 2 && known.connected).await;
        place.says(name, "this box has its next certificate").await;
        running.kill().await.unwrap();
        let said = place.withdraw(name).await;
        assert!(said.status.success() && text(&said).contains("has forgotten this box"), "{}", text(&said));
        place.until(&agent, "it has no say", |known| known.standing == "revoked").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_with_its_certificate_and_the_box_comes_back_by_itself() {
    let _stage = stage().await;
    let mut middlebox = TcpBox::new().await;
    let place = Place::at(&[format!("https://{}", middlebox.address)], None).await;
    // Enrolment, the stream, and the renewal, which fails.
    middlebox.open(place.agents_listen(), Trick::Refuse(2));
    let agent = place.enrolled("anna").await;
    place.age("anna", &agent, 7 * DAY - LEFT);
    let _running = place.run("anna");
    place.says("anna", "no new certificate; tried again later").await;
    // The stream goes on by the certificate in force.
    let began = Instant::now();
    while middlebox.connections().len() < 4 {
        assert!(began.elapsed() < STUCK, "it does not connect again");
        tokio::time::sleep(POLL).await;
    }
    place.until(&agent, "it is on the line", |known| known.generation == 1 && known.connected).await;
    place.until(&agent, "it came back", |known| known.generation == 2 && known.connected).await;
    place.says("anna", "certificate_expired").await;
    assert_eq!(middlebox.connections().len(), 6, "return, and the stream by the next certificate");
}
