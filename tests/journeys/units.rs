//! The systemd units: how well they confine the programs, and what the programs tell the service manager.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::net::UnixDatagram;
use tokio::process::{Child, Command};
use zerkalo_lab::fleet::{Fleet, crew};
use zerkalo_lab::internet::{Internet, PLACES};

use crate::programs::{program, stage};

/// Signs of life are due twice as often.
const WATCHDOG: Duration = Duration::from_millis(400);
const STUCK: Duration = Duration::from_secs(300);

#[test]
fn the_units_confine_the_programs() {
    let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("../systemd");
    // Tenths of the exposure level, from 0 to 100.
    for (unit, exposure_max) in [
        ("zerkalo-agent.service", 13),
        ("zerkalo-collector.service", 17),
        // A browser needs namespaces and compiles scripts.
        ("zerkalo-pictures@.service", 40),
    ] {
        let said = std::process::Command::new("systemd-analyze")
            .args(["security", "--offline=true", "--no-pager", &format!("--threshold={exposure_max}")])
            .arg(units.join(unit))
            .output();
        let Ok(said) = said else {
            eprintln!("!!! SKIPPED: that takes systemd-analyze (tests/prepare)");
            return;
        };
        let words = String::from_utf8_lossy(&said.stdout);
        assert!(words.contains("Overall exposure level"), "{words}{}", String::from_utf8_lossy(&said.stderr));
        assert!(said.status.success(), "{unit} is exposed more than {exposure_max} tenths:\n{words}");
    }
}

/// The service manager's end.
struct Manager {
    _dir: tempfile::TempDir,
    socket: UnixDatagram,
    path: std::path::PathBuf,
}

impl Manager {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        Self { socket: UnixDatagram::bind(&path).unwrap(), path, _dir: dir }
    }

    fn start(&self, name: &str, args: &[&str]) -> Child {
        Command::new(program(name))
            .args(args)
            .env("NOTIFY_SOCKET", &self.path)
            .env("WATCHDOG_USEC", WATCHDOG.as_micros().to_string())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap()
    }

    async fn hears(&self, wanted: &str) {
        let mut room = [0; 512];
        loop {
            let heard = tokio::time::timeout(STUCK, self.socket.recv(&mut room)).await;
            let len = heard.unwrap_or_else(|_| panic!("{wanted} was not said")).unwrap();
            if String::from_utf8_lossy(&room[..len]).lines().any(|line| line == wanted) {
                return;
            }
        }
    }

    /// From its start to its end by SIGTERM.
    async fn sees_a_life(&self, mut child: Child) {
        self.hears("READY=1").await;
        for _ in 0..3 {
            self.hears("WATCHDOG=1").await;
        }
        let pid = child.id().expect("it was not waited for").to_string();
        let told = std::process::Command::new("kill").args(["-TERM", &pid]).status().unwrap();
        assert!(told.success());
        self.hears("STOPPING=1").await;
        assert!(child.wait().await.unwrap().success());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn both_programs_tell_the_service_manager_that_they_live() {
    let _stage = stage().await;
    let internet = Internet::start().await.unwrap();
    let mut fleet = Fleet::start(&internet, None, &crew(&PLACES[..1])).await.unwrap();
    for agent in fleet.agents_mut() {
        agent.kill().await.unwrap();
    }
    fleet.collector_mut().kill().await.unwrap();
    let collector = fleet.collector().dir();
    let manager = Manager::new();
    manager.sees_a_life(manager.start("zerkalo-collector", &["serve", collector.to_str().unwrap()])).await;

    let agents = fleet.collector().home().join("agents");
    let home = std::fs::read_dir(agents).unwrap().next().unwrap().unwrap().path();
    let (state, config) = (home.join("state"), home.join("agent.toml"));
    let args = ["run", "--dir", state.to_str().unwrap(), "--config", config.to_str().unwrap()];
    manager.sees_a_life(manager.start("zerkalo-agent", &args)).await;
}
