//! The picture service as systemd starts it: a process of another user for each connection, with Chromium's sandbox on; and
//! that this user reads no key of the agent's.

use std::collections::BTreeSet;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use zerkalo_agent::picture::camera::Limits;
use zerkalo_agent::picture::photographer::Photographer;
use zerkalo_agent::picture::{Order, Shot};

use crate::picture::{BROWSER, GREEN, STAGE, coloured, is_near, look};
use crate::world::*;

/// On a busy machine with two cores.
const PATIENCE: Duration = Duration::from_secs(120);

/// What a connection is answered with, as zerkalo-pictures.socket has it (`Accept=yes`).
struct Service {
    home: tempfile::TempDir,
    uid: u32,
}

/// Under whom the service runs.
#[derive(Clone, Copy)]
enum User {
    Another,
    TheAgents,
}

impl Service {
    /// `None`, loudly, where this machine cannot.
    fn new() -> Option<Self> {
        let is_root = std::fs::metadata("/proc/self").unwrap().uid() == 0;
        if !is_root || !Path::new(BROWSER).exists() {
            eprintln!("!!! SKIPPED: pictures by another user take root and Chromium (tests/prepare)");
            return None;
        }
        let home = tempfile::tempdir().unwrap();
        // Whoever runs the service must get at the program; the agent's own directory lies elsewhere.
        std::fs::set_permissions(home.path(), PermissionsExt::from_mode(0o755)).unwrap();
        // By another process: a child that another test starts would hold a file of ours open, and nobody could run it.
        let mut copy = Command::new("cp");
        copy.arg(env!("CARGO_BIN_EXE_zerkalo-agent")).arg(home.path().join("zerkalo-agent"));
        assert!(copy.status().unwrap().success());
        std::fs::create_dir(home.path().join("tmp")).unwrap();
        std::fs::set_permissions(home.path().join("tmp"), PermissionsExt::from_mode(0o1777)).unwrap();
        // Nobody else's on this machine.
        Some(Self { home, uid: 200_000 + std::process::id() })
    }

    fn as_user(&self, user: User, program: &Path) -> Command {
        let mut command = Command::new("setpriv");
        let id = match user {
            User::Another => self.uid,
            User::TheAgents => 0,
        };
        command.args([format!("--reuid={id}"), format!("--regid={id}"), "--clear-groups".to_owned()]);
        command.args(["--inh-caps=-all", "--bounding-set=-all", "--no-new-privs"]).arg(program);
        command
    }

    /// Whether Chromium can have its sandbox here: it takes user namespaces.
    fn may_sandbox(&self) -> bool {
        let mut unshare = self.as_user(User::Another, Path::new("unshare"));
        unshare.args(["-r", "-n", "true"]).output().is_ok_and(|ended| ended.status.success())
    }

    /// Serves one connection; gives the process.
    fn serve(&self, listener: &UnixListener, user: User, arguments: &[&str]) -> Child {
        let (connection, _) = listener.accept().unwrap();
        let output = connection.try_clone().unwrap();
        let mut command = self.as_user(user, &self.home.path().join("zerkalo-agent"));
        command
            .args(["picture-keeper", "--service", "--time-max", &PATIENCE.as_secs().to_string()])
            .args(arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("TMPDIR", self.home.path().join("tmp"))
            .stdin(Stdio::from(std::os::fd::OwnedFd::from(connection)))
            .stdout(Stdio::from(std::os::fd::OwnedFd::from(output)))
            .process_group(0);
        command.spawn().unwrap()
    }

    /// The processes of the service's user.
    fn processes(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
        entries.filter(|path| path.metadata().is_ok_and(|found| found.uid() == self.uid)).collect()
    }

    /// All that is of the service is of its user, and holds no right of another.
    fn owns_all(&self, processes: &[PathBuf]) {
        let own = self.uid.to_string();
        for path in processes {
            let status = std::fs::read_to_string(path.join("status")).unwrap_or_default();
            let ids = status.lines().filter_map(|line| line.strip_prefix("Uid:"));
            let ids: BTreeSet<&str> = ids.flat_map(str::split_ascii_whitespace).collect();
            assert!(ids.iter().all(|id| *id == own.as_str()), "{status}");
        }
    }

    /// Reads a file as the service's user.
    fn read(&self, file: &Path) -> Output {
        self.as_user(User::Another, Path::new("cat")).arg(file).output().unwrap()
    }
}

fn order(url: String, address: std::net::SocketAddr) -> Order {
    Order { url, address, connections_max: 2, trusted_key: None }
}

/// What a renderer is confined by: a filter of system calls, and namespaces that are not the machine's.
fn is_sandboxed(renderer: &Path) -> bool {
    let status = std::fs::read_to_string(renderer.join("status")).unwrap_or_default();
    let line = |key: &str| status.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default().trim();
    let namespace = |path: &Path| std::fs::read_link(path.join("ns/pid")).ok();
    let own = namespace(Path::new("/proc/self"));
    line("Seccomp:") == "2" && namespace(renderer).is_some_and(|found| Some(found) != own)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_browser_is_another_users_who_reads_no_key_and_its_sandbox_is_on() {
    let _stage = STAGE.lock().await;
    let Some(service) = Service::new() else { return };
    let arguments: &[&str] = if service.may_sandbox() {
        &[]
    } else {
        eprintln!("!!! SKIPPED: no user namespaces here: the browser ran WITHOUT its sandbox");
        &["--no-sandbox"]
    };
    // The agent's directory, as `enroll` makes it.
    let state = tempfile::tempdir().unwrap();
    let key = state.path().join("record.key");
    std::fs::write(&key, "07".repeat(32)).unwrap();
    std::fs::set_permissions(&key, PermissionsExt::from_mode(0o600)).unwrap();
    let socket = state.path().join("socket");
    let listener = UnixListener::bind(&socket).unwrap();
    // The page stays unfinished for a while: time to look at who shows it.
    let (seen, mut visits) = mpsc::unbounded_channel();
    let page = coloured(GREEN, "<img src='/never'>");
    let address = http_server(Arc::new(move |path| match path {
        "/never" => {
            let _ = seen.send(());
            (Vec::new(), After::Stall)
        }
        _ => (page.clone(), After::Continue),
    }))
    .await;
    let limits = Limits { time: PATIENCE, ..Limits::default() };
    let photographer = Photographer::Service { socket, limits };
    let url = format!("http://{HOST}:{}/", address.port());
    let asking = {
        let (photographer, order) = (photographer.clone(), order(url, address));
        tokio::spawn(async move { photographer.take(&order).await })
    };
    let mut keeper = tokio::task::block_in_place(|| service.serve(&listener, User::Another, arguments));
    visits.recv().await.unwrap();
    let processes = service.processes();
    let said = |path: &PathBuf| {
        String::from_utf8_lossy(&std::fs::read(path.join("cmdline")).unwrap_or_default()).into_owned()
    };
    let renderers: Vec<_> = processes.iter().filter(|path| said(path).contains("--type=renderer")).collect();
    assert!(processes.len() > 3 && !renderers.is_empty(), "{processes:?}");
    if arguments.is_empty() {
        assert!(renderers.iter().all(|renderer| is_sandboxed(renderer)), "{renderers:?}");
        assert!(processes.iter().all(|path| !said(path).contains("--no-sandbox")));
    }
    service.owns_all(&processes);
    let refused = service.read(&key);
    assert!(!refused.status.success() && refused.stdout.is_empty(), "{refused:?}");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("Permission denied"), "{refused:?}");
    // The same words read what is anybody's: the refusal is one.
    assert!(service.read(&service.home.path().join("zerkalo-agent")).status.success());
    let Shot { picture, line_bytes } = asking.await.unwrap();
    assert!(line_bytes > 0 && is_near(look(&picture.unwrap()).0, GREEN));
    assert!(keeper.wait().unwrap().success());
    let began = Instant::now();
    while !service.processes().is_empty() {
        assert!(began.elapsed() < PATIENCE, "{:?}", service.processes().iter().map(said).collect::<Vec<_>>());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let left: Vec<_> = std::fs::read_dir(service.home.path().join("tmp")).unwrap().collect();
    assert!(left.is_empty(), "no profile outlives its picture: {left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_of_the_agents_own_user_takes_no_picture_and_says_what_to_do() {
    let _stage = STAGE.lock().await;
    let Some(service) = Service::new() else { return };
    let state = tempfile::tempdir().unwrap();
    let socket = state.path().join("socket");
    let listener = UnixListener::bind(&socket).unwrap();
    let limits = Limits { time: PATIENCE, ..Limits::default() };
    let photographer = Photographer::Service { socket, limits };
    let asking = tokio::spawn(async move {
        photographer.take(&order("http://mirror.example/".to_owned(), "192.0.2.1:80".parse().unwrap())).await
    });
    let mut keeper = tokio::task::block_in_place(|| service.serve(&listener, User::TheAgents, &[]));
    let failure = asking.await.unwrap().picture.unwrap_err();
    assert!(failure.contains("pictures_same_user") && failure.contains("one of its own"), "{failure}");
    assert!(keeper.wait().unwrap().success());
}
