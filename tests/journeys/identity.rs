//! A box's life over the real programs: it enrols, its certificate is renewed, it comes back after its certificate's time,
//! a copy of it is found out, and it is revoked.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::{Duration, Instant, SystemTime};

use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair, SanType};
use tokio::process::{Child, Command};
use zerkalo_core::words::Station;
use zerkalo_lab::fleet::{Collector, Policies};
use zerkalo_proto::operator_v1::Agent;

use crate::programs::{program, stage};

const STUCK: Duration = Duration::from_secs(300);
const POLL: Duration = Duration::from_millis(50);
const DAY: Duration = Duration::from_secs(86_400);
/// The exit status of a box that was revoked.
const EXPELLED: i32 = 5;

/// One collector, and boxes that measure nothing while there is no list.
pub struct Place {
    pub collector: Collector,
    pub home: PathBuf,
}

impl Place {
    async fn new() -> Self {
        Self::of(Collector::start(None).await.unwrap())
    }

    /// Agents reach the collector at `urls` alone; where it listens for QUIC, if it does.
    pub async fn at(urls: &[String], quic: Option<SocketAddr>) -> Self {
        let change = |settings: &mut toml::Table| {
            let agents = settings.get_mut("agents").and_then(toml::Value::as_table_mut).unwrap();
            agents.insert("public_urls".to_owned(), urls.to_vec().into());
            if let Some(quic) = quic {
                agents.insert("quic_listen".to_owned(), quic.to_string().into());
            }
        };
        Self::of(Collector::start_changed(None, Policies::Hurried, change).await.unwrap())
    }

    fn of(collector: Collector) -> Self {
        let home = collector.home().to_owned();
        std::fs::write(home.join("agent.toml"), "interval_secs = 1\n[resolvers]\nsystem = [\"127.0.0.1\"]\n")
            .unwrap();
        Self { collector, home }
    }

    /// A token's file.
    async fn token(&self, name: &str) -> PathBuf {
        let station =
            Station::Field { carrier: "kz-kcell".parse().unwrap(), access: "mobile".parse().unwrap() };
        let text = self.collector.operator().create_token(name, &station).await.unwrap();
        let file = self.home.join(format!("{name}.token"));
        std::fs::write(&file, text).unwrap();
        file
    }

    /// Without a URL: the token has it.
    async fn enrol(&self, token: &Path, name: &str) -> Output {
        let mut command = Command::new(program("zerkalo-agent"));
        command
            .args(["enroll", "--accept", "1", "--token-file"])
            .arg(token)
            .arg("--dir")
            .arg(self.home.join(name));
        command.output().await.unwrap()
    }

    pub async fn enrolled(&self, name: &str) -> String {
        let token = self.token(name).await;
        let ended = self.enrol(&token, name).await;
        assert!(ended.status.success(), "{}", text(&ended));
        self.agents().await.into_iter().find(|agent| agent.owner == name).unwrap().agent
    }

    pub fn run(&self, name: &str) -> Child {
        let log = std::fs::File::options().create(true).append(true).open(self.log(name)).unwrap();
        let mut command = Command::new(program("zerkalo-agent"));
        command.args(["run", "--dir"]).arg(self.home.join(name));
        command.arg("--config").arg(self.home.join("agent.toml")).stderr(log).kill_on_drop(true);
        command.spawn().unwrap()
    }

    /// Withdraws consent, as the host does.
    pub async fn withdraw(&self, name: &str) -> Output {
        let mut command = Command::new(program("zerkalo-agent"));
        command.args(["consent", "revoke", "--dir"]).arg(self.home.join(name));
        command.output().await.unwrap()
    }

    /// Where the collector listens for agents by TCP.
    pub fn agents_listen(&self) -> SocketAddr {
        let settings = std::fs::read_to_string(self.collector.dir().join("collector.toml")).unwrap();
        let settings: toml::Table = settings.parse().unwrap();
        settings["agents"]["listen"].as_str().unwrap().parse().unwrap()
    }

    pub fn log(&self, name: &str) -> PathBuf {
        self.home.join(format!("{name}.log"))
    }

    async fn agents(&self) -> Vec<Agent> {
        self.collector.operator().agents().await.unwrap()
    }

    /// Waits until an agent is as wanted.
    pub async fn until(&self, agent: &str, what: &str, wanted: impl Fn(&Agent) -> bool) {
        let began = Instant::now();
        loop {
            let known = self.agents().await.into_iter().find(|known| known.agent == agent).unwrap();
            if wanted(&known) {
                return;
            }
            assert!(began.elapsed() < STUCK, "{what}: {known:?}");
            tokio::time::sleep(POLL).await;
        }
    }

    /// Waits until a box says so.
    pub async fn says(&self, name: &str, what: &str) {
        let began = Instant::now();
        while !std::fs::read_to_string(self.log(name)).unwrap_or_default().contains(what) {
            let log = std::fs::read_to_string(self.log(name)).unwrap_or_default();
            assert!(began.elapsed() < STUCK, "{name} does not say {what:?}: {log}");
            tokio::time::sleep(POLL).await;
        }
    }

    /// `zerkalo agents ...`, as the operator.
    async fn zerkalo(&self, args: &[&str]) -> Output {
        let file = self.collector.dir().join("operator/operator.toml");
        let mut command = Command::new(program("zerkalo"));
        command.arg("--config").arg(file).arg("agents").args(args);
        command.output().await.unwrap()
    }

    /// Gives a box the certificate it would have had so long ago.
    pub fn age(&self, name: &str, agent: &str, age: Duration) {
        let read = |path: &str| std::fs::read_to_string(self.collector.dir().join(path)).unwrap();
        let key = KeyPair::from_pem(&read("ca/ca.key")).unwrap();
        let issuer = Issuer::from_ca_cert_pem(&read("ca/ca.pem"), key).unwrap();
        let file = self.home.join(name).join("tls.json");
        let mut kept: serde_json::Value =
            serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
        let own = KeyPair::from_pem(kept["key_pem"].as_str().unwrap()).unwrap();
        let mut params = CertificateParams::default();
        let san = format!("{agent}.agent.zerkalo").try_into().unwrap();
        params.subject_alt_names = vec![SanType::DnsName(san)];
        params.distinguished_name.push(DnType::OrganizationalUnitName, "generation 1");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let made = SystemTime::now() - age;
        params.not_before = made.into();
        params.not_after = (made + 7 * DAY).into();
        kept["certificate_pem"] = params.signed_by(&own, &issuer).unwrap().pem().into();
        std::fs::write(file, kept.to_string()).unwrap();
    }
}

pub fn text(output: &Output) -> String {
    let of = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    of(&output.stdout) + &of(&output.stderr)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_who_withdraws_is_forgotten_by_the_collector() {
    let _stage = stage().await;
    let place = Place::new().await;
    let agent = place.enrolled("aigerim").await;
    let mut box_ = place.run("aigerim");
    place.until(&agent, "it is on the line", |known| known.connected).await;
    let said = place.withdraw("aigerim").await;
    assert!(said.status.success() && text(&said).contains("has forgotten this box"), "{}", text(&said));
    // Whether it hears of the withdrawal or of the revocation first, it ends.
    let ended = tokio::time::timeout(STUCK, box_.wait()).await.expect("it goes on").unwrap();
    assert!(matches!(ended.code(), Some(4 | EXPELLED)), "{ended}");
    place.until(&agent, "it has no say", |known| known.standing == "revoked" && !known.connected).await;
    let known = place.agents().await.into_iter().find(|known| known.agent == agent).unwrap();
    assert!(known.standing_reason.contains("withdrawn consent"), "{known:?}");
    // Once more is no fault.
    let said = place.withdraw("aigerim").await;
    assert!(said.status.success(), "{}", text(&said));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_lets_in_one_box_and_trusts_one_collector() {
    let _stage = stage().await;
    let place = Place::new().await;
    let token = place.token("anna").await;
    let ended = place.enrol(&token, "anna").await;
    assert!(ended.status.success() && text(&ended).contains("carrier kz-kcell, mobile"), "{}", text(&ended));
    let ended = place.enrol(&token, "thief").await;
    assert!(!ended.status.success() && text(&ended).contains("token_used"), "{}", text(&ended));
    assert!(text(&ended).contains("ask the operator for a new one"), "{}", text(&ended));
    // Another collector's CA: whoever answers there is not trusted, and is told nothing.
    let other = Place::new().await;
    let (ours, theirs) = (place.token("boris").await, other.token("boris").await);
    let read = |file: &Path| {
        use base64::Engine as _;
        let text = std::fs::read_to_string(file).unwrap();
        let json = text.trim().strip_prefix("zk1.").unwrap();
        let json = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(json).unwrap();
        serde_json::from_slice::<serde_json::Value>(&json).unwrap()
    };
    let mut mixed = read(&ours);
    mixed["ca_pem"] = read(&theirs)["ca_pem"].clone();
    let text_of = |json: &serde_json::Value| {
        use base64::Engine as _;
        format!("zk1.{}", base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(json.to_string()))
    };
    std::fs::write(place.home.join("mixed.token"), text_of(&mixed)).unwrap();
    let ended = place.enrol(&place.home.join("mixed.token"), "boris").await;
    assert!(!ended.status.success() && text(&ended).contains("certificate"), "{}", text(&ended));
    // Nothing was used up by that.
    let ended = place.enrol(&ours, "boris").await;
    assert!(ended.status.success(), "{}", text(&ended));
    // The first of several addresses is dead: the next one is asked.
    let mut several = read(&place.token("carl").await);
    several["urls"].as_array_mut().unwrap().insert(0, "https://127.0.0.81:9".into());
    std::fs::write(place.home.join("several.token"), text_of(&several)).unwrap();
    let ended = place.enrol(&place.home.join("several.token"), "carl").await;
    assert!(ended.status.success(), "{}", text(&ended));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_box_renews_its_certificate_and_comes_back_after_its_time() {
    let _stage = stage().await;
    let place = Place::new().await;
    for (name, age) in [("renews", 4 * DAY), ("rejoins", 9 * DAY)] {
        let agent = place.enrolled(name).await;
        place.age(name, &agent, age);
        let _running = place.run(name);
        place
            .until(&agent, "its next certificate is on the line", |known| {
                known.generation == 2 && known.connected
            })
            .await;
        place.says(name, "this box has its next certificate").await;
        let kept = std::fs::read_to_string(place.home.join(name).join("tls.json")).unwrap();
        assert!(!place.home.join(name).join("tls.key.next").exists(), "{kept}");
    }
    // Of a hundred days ago, and of a box that was heard of just now: it comes back as well.
    let agent = place.enrolled("sleeper").await;
    place.age("sleeper", &agent, 100 * DAY);
    let _running = place.run("sleeper");
    place.until(&agent, "it is back", |known| known.generation == 2 && known.connected).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copied_box_is_locked_until_a_person_unlocks_it() {
    let _stage = stage().await;
    let place = Place::new().await;
    let agent = place.enrolled("anna").await;
    let mut copy = Command::new("cp");
    copy.arg("-r").arg(place.home.join("anna")).arg(place.home.join("copy"));
    assert!(copy.status().await.unwrap().success());
    place.age("anna", &agent, 4 * DAY);
    let _running = place.run("anna");
    place.until(&agent, "it has renewed", |known| known.generation == 2 && known.connected).await;
    let mut copy = place.run("copy");
    place
        .until(&agent, "the copy is found out", |known| known.standing == "locked" && !known.connected)
        .await;
    place.says("anna", "agent_locked").await;
    place.says("anna", "nothing is measured until the collector lets this box in again").await;
    let shown = place.zerkalo(&["ls"]).await;
    assert!(text(&shown).contains("LOCKED") && text(&shown).contains("agents unlock"), "{}", text(&shown));
    copy.kill().await.unwrap();
    let unlocked = place.zerkalo(&["unlock", &agent, "--reason", "the copy is stopped"]).await;
    assert!(unlocked.status.success(), "{}", text(&unlocked));
    place.until(&agent, "it is back", |known| known.standing == "good" && known.connected).await;
    place.says("anna", "measuring goes on").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_box_stops_and_says_what_to_do() {
    let _stage = stage().await;
    let place = Place::new().await;
    let agent = place.enrolled("anna").await;
    let mut running = place.run("anna");
    place.until(&agent, "it is on the line", |known| known.connected).await;
    let began = Instant::now();
    let revoked = place.zerkalo(&["revoke", &agent, "--reason", "the host moved"]).await;
    assert!(revoked.status.success(), "{}", text(&revoked));
    let ended = tokio::time::timeout(STUCK, running.wait()).await.expect("it ends by itself").unwrap();
    println!("cut off and stopped after {} ms", began.elapsed().as_millis());
    assert_eq!(ended.code(), Some(EXPELLED));
    place.says("anna", "agent_revoked").await;
    place.says("anna", "the host moved").await;
    // Started again it stays quiet, and says the same.
    let ended = tokio::time::timeout(STUCK, place.run("anna").wait()).await.unwrap().unwrap();
    assert_eq!(ended.code(), Some(EXPELLED));
    let status = Command::new(program("zerkalo-agent"))
        .args(["status", "--dir"])
        .arg(place.home.join("anna"))
        .output()
        .await
        .unwrap();
    assert!(text(&status).contains("it measures nothing: agent_revoked"), "{}", text(&status));
    // With a new token it is another box.
    let token = place.token("anna2").await;
    let mut command = Command::new(program("zerkalo-agent"));
    command
        .args(["enroll", "--force", "--accept", "1", "--token-file"])
        .arg(token)
        .arg("--dir")
        .arg(place.home.join("anna"));
    assert!(command.output().await.unwrap().status.success());
    let _running = place.run("anna");
    let again = place.agents().await.into_iter().find(|known| known.owner == "anna2").unwrap().agent;
    place.until(&again, "it is on the line", |known| known.connected).await;
}
