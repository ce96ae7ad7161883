//! The real programs under their real units: a systemd of our own in namespaces of its own, with nothing but our units in
//! it. Where none can be booted this is said loudly; what the programs tell a service manager is in `units.rs`.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use zerkalo_lab::fleet::BROWSER;

use crate::programs::{program, stage};

const SYSTEMD: &str = "/lib/systemd/systemd";
/// How long it may take to boot, or anything in it to happen.
const STUCK: Duration = Duration::from_secs(180);
const POLL: Duration = Duration::from_millis(100);
/// Where everything of the machine lies that is not its programs.
const UNITS: &str = "/run/zk/units";
/// Makes the machine: its own /run, writable layers over what belongs to the real one, its own control group, its own units
/// alone (SYSTEMD_UNIT_PATH), and the programs as built in their place. The arguments: systemd, then the programs.
const BOOT: &str = r#"
systemd=$1; shift
mount --make-rprivate /
mount -t proc proc /proc
mount -t tmpfs tmpfs /run
for dir in /etc /var /usr/bin; do
    mkdir -p /run/zk/upper$dir /run/zk/work$dir
    mount -t overlay overlay -o lowerdir=$dir,upperdir=/run/zk/upper$dir,workdir=/run/zk/work$dir $dir
done
for program in "$@"; do
    touch /usr/bin/"$(basename "$program")"
    mount --bind "$program" /usr/bin/"$(basename "$program")"
done
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
else
    mount -t tmpfs tmpfs /sys/fs/cgroup
    mkdir /sys/fs/cgroup/systemd /sys/fs/cgroup/unified
    mount -t cgroup -o none,name=systemd cgroup /sys/fs/cgroup/systemd
    mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified || rmdir /sys/fs/cgroup/unified
fi
# Credentials are mounted by a child of systemd, and must be seen by its others.
mount --make-rshared /
mkdir -p /run/zk/units
for target in zk sysinit basic shutdown sockets network-online multi-user; do
    printf '[Unit]\nDescription=%s\nDefaultDependencies=no\n' $target > /run/zk/units/$target.target
done
exec env -i container=zk SYSTEMD_UNIT_PATH=/run/zk/units PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    "$systemd" --system --unit=zk.target --log-target=null --show-status=0
"#;

/// A booted systemd; killed with everything in it when dropped.
struct Machine {
    outer: std::process::Child,
    init: u32,
    groups: Vec<PathBuf>,
}

impl Machine {
    /// `Err` says why there is none.
    async fn boot() -> Result<Self, String> {
        let owner = std::fs::metadata("/proc/self").map(|own| std::os::unix::fs::MetadataExt::uid(&own));
        if !owner.is_ok_and(|uid| uid == 0) || !Path::new(SYSTEMD).exists() {
            return Err(format!("that takes root and {SYSTEMD} (tests/prepare)"));
        }
        // Its own branch of each tree of control groups: systemd arranges the one it finds itself in.
        let name = format!("zk-{}", std::process::id());
        let trees = ["/sys/fs/cgroup", "/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified"].map(Path::new);
        let groups: Vec<PathBuf> = trees
            .into_iter()
            .filter(|tree| tree.join("cgroup.procs").exists())
            .map(|tree| tree.join(&name))
            .filter(|group| std::fs::create_dir(group).is_ok())
            .collect();
        let joins: String =
            groups.iter().map(|group| format!("echo $$ > {}/cgroup.procs; ", group.display())).collect();
        let programs = ["zerkalo-collector", "zerkalo-agent", "zerkalo"].map(program);
        let unshare = format!(
            "{joins}exec unshare --mount --pid --fork --cgroup --uts --ipc --kill-child -- /bin/sh -e -c \"$0\" boot \"$@\""
        );
        let outer = Command::new("sh")
            .args(["-c", &unshare, BOOT, SYSTEMD])
            .args(programs)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| error.to_string())?;
        let mut machine = Self { outer, init: 0, groups };
        let began = Instant::now();
        while began.elapsed() < STUCK {
            if let Ok(Some(ended)) = machine.outer.try_wait() {
                return Err(format!("systemd does not boot in a namespace here ({ended})"));
            }
            let children = format!("/proc/{0}/task/{0}/children", machine.outer.id());
            let children = std::fs::read_to_string(children).unwrap_or_default();
            machine.init = children.split_whitespace().next().and_then(|id| id.parse().ok()).unwrap_or(0);
            let name = std::fs::read_to_string(format!("/proc/{}/comm", machine.init)).unwrap_or_default();
            if name.trim() == "systemd" {
                let state = machine.inside("systemctl is-system-running");
                let state = String::from_utf8_lossy(&state.stdout).trim().to_owned();
                if ["running", "degraded", "starting"].contains(&state.as_str()) {
                    return Ok(machine);
                }
            }
            tokio::time::sleep(POLL).await;
        }
        Err("systemd does not answer in a namespace here".to_owned())
    }

    /// A shell's command in there, as root.
    fn inside(&self, script: &str) -> Output {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.init.to_string(), "--mount", "--pid", "--cgroup", "--uts", "--ipc"]);
        command.args(["--", "sh", "-e", "-c", script]).stdin(Stdio::null());
        command.output().unwrap()
    }

    /// The same, which must succeed; what it printed.
    fn does(&self, script: &str) -> String {
        let ended = self.inside(script);
        if !ended.status.success() {
            let units = self.inside("systemctl --no-pager --full status 'zerkalo*'; true").stdout;
            let said = [ended.stdout, ended.stderr, units].concat();
            panic!("{script}: {}", String::from_utf8_lossy(&said));
        }
        String::from_utf8(ended.stdout).unwrap().trim().to_owned()
    }

    fn property(&self, unit: &str, name: &str) -> String {
        self.does(&format!("systemctl show --value --property {name} {unit}"))
    }

    async fn until(&self, what: &str, is_so: impl Fn() -> bool) {
        let began = Instant::now();
        while !is_so() {
            let units = self.inside("systemctl --no-pager --full status 'zerkalo*'").stdout;
            assert!(began.elapsed() < STUCK, "{what}:\n{}", String::from_utf8_lossy(&units));
            tokio::time::sleep(POLL).await;
        }
    }

    /// What the unit confines its main process to, by the kernel's own word.
    fn is_confined(&self, unit: &str, user: &str) {
        let pid = self.property(unit, "MainPID");
        let status = self.does(&format!("cat /proc/{pid}/status"));
        let line = |key: &str| status.lines().find_map(|line| line.strip_prefix(key)).unwrap().trim();
        let uid = self.does(&format!("id -u {user}"));
        assert_ne!(uid, "0");
        assert_eq!(line("Uid:").split_whitespace().collect::<Vec<_>>(), [uid.as_str(); 4], "{status}");
        assert_eq!((line("CapEff:"), line("CapBnd:")), ("0000000000000000", "0000000000000000"), "{status}");
        assert_eq!((line("NoNewPrivs:"), line("Seccomp:")), ("1", "2"), "{status}");
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // The first process of a PID namespace takes all others along.
        if self.init > 0 {
            let _ = Command::new("kill").args(["-KILL", &self.init.to_string()]).status();
        }
        let _ = self.outer.kill();
        let _ = self.outer.wait();
        for group in &self.groups {
            // Not empty as long as anybody in it dies.
            for _ in 0..100 {
                let _ = Command::new("find").arg(group).args(["-depth", "-type", "d", "-delete"]).output();
                if !group.exists() {
                    break;
                }
                std::thread::sleep(POLL);
            }
        }
    }
}

/// Free for the moment; at an address of its own, where nobody takes ports by chance.
fn ports() -> [u16; 3] {
    let held = [(); 3].map(|()| std::net::TcpListener::bind("127.0.83.1:0").unwrap());
    held.each_ref().map(|listener| listener.local_addr().unwrap().port())
}

fn install(machine: &Machine) {
    let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("../systemd");
    let units = units.canonicalize().unwrap().display().to_string();
    machine.does(&format!("systemd-sysusers {units}/zerkalo.sysusers"));
    machine.does(&format!("systemd-tmpfiles --create {units}/zerkalo.tmpfiles"));
    machine.does(&format!("cp {units}/*.service {units}/*.socket {UNITS}/"));
    for name in ["zerkalo-collector", "zerkalo-agent"] {
        let found = machine.does(&format!("stat -c '%a %U %G' /var/lib/{name}"));
        assert_eq!(found, format!("700 {name} {name}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_programs_run_under_their_units_with_watchdog_users_and_credentials() {
    let _stage = stage().await;
    let machine = match Machine::boot().await {
        Ok(machine) => machine,
        Err(why) => return eprintln!("!!! SKIPPED: the programs did NOT run under their units: {why}"),
    };
    install(&machine);
    // The CA's key is systemd's to keep: in the collector's directory there is none.
    let [agents, operators, metrics] = ports();
    let dir = "/var/lib/zerkalo-collector";
    machine.does(&format!(
        "runuser -u zerkalo-collector -- zerkalo-collector init {dir} --name 127.0.83.1 --agents-listen 127.0.83.1:{agents} \
         --operators-listen 127.0.83.1:{operators} --metrics-listen 127.0.83.1:{metrics}
         mkdir -p -m 700 /etc/credstore
         mv {dir}/ca/ca.key /etc/credstore/zerkalo-collector.ca.key
         mkdir -p {UNITS}/zerkalo-collector.service.d
         printf '[Service]\\nWatchdogSec=8\\nTimeoutAbortSec=1\\n' > {UNITS}/zerkalo-collector.service.d/quick.conf
         systemctl daemon-reload
         systemctl start zerkalo-collector"
    ));
    machine.is_confined("zerkalo-collector", "zerkalo-collector");
    // Certificates are made with it all the same.
    let zerkalo = format!("zerkalo --config {dir}/operator/operator.toml");
    machine.does(&format!(
        "{zerkalo} tokens create --owner me --control --out /run/zk/token
         install -o zerkalo-agent -m 0600 /run/zk/token /var/lib/zerkalo-agent/token
         runuser -u zerkalo-agent -- zerkalo-agent enroll --token-file /var/lib/zerkalo-agent/token --accept 1
         mv /var/lib/zerkalo-agent/record.key /etc/credstore/zerkalo-agent.record.key
         systemctl start zerkalo-agent"
    ));
    machine.is_confined("zerkalo-agent", "zerkalo-agent");
    let is_on_the_line =
        || machine.does(&format!("{zerkalo} agents ls -o json")).contains("\"connected\": true");
    machine.until("the agent is on the line", is_on_the_line).await;
    // One that hangs is ended and started anew.
    let pid = machine.property("zerkalo-collector", "MainPID");
    let before = machine.property("zerkalo-collector", "NRestarts");
    machine.does(&format!("kill -STOP {pid}"));
    let is_new = || {
        machine.property("zerkalo-collector", "NRestarts") != before
            && machine.property("zerkalo-collector", "ActiveState") == "active"
    };
    machine.until("the collector is started anew", is_new).await;
    assert_ne!(machine.property("zerkalo-collector", "MainPID"), pid);
    machine.does("systemctl stop zerkalo-agent zerkalo-collector");
    for unit in ["zerkalo-agent", "zerkalo-collector"] {
        assert_eq!(machine.property(unit, "Result"), "success", "{unit}");
    }
    takes_a_picture(&machine).await;
}

/// By the service's socket, as the agent asks.
async fn takes_a_picture(machine: &Machine) {
    let help = machine.inside("zerkalo-agent picture-keeper --help");
    if !Path::new(BROWSER).exists() || !help.status.success() {
        return eprintln!(
            "!!! SKIPPED: no picture by the service: that takes {BROWSER} and the feature `screenshot`"
        );
    }
    machine.does("systemctl start zerkalo-pictures.socket");
    let socket = "/run/zerkalo-pictures/socket";
    assert_eq!(machine.does(&format!("stat -c '%a %U %G' {socket}")), "600 zerkalo-agent zerkalo-agent");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let page = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 4_096];
            let _ = stream.read(&mut request).await;
            let body = "<html><body style='background:green'></body></html>";
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: {}\r\n\r\n",
                body.len()
            );
            let _ = stream.write_all((head + body).as_bytes()).await;
        }
    });
    let order = serde_json::json!({ "url": format!("http://mirror.example:{}/", address.port()), "address": address, "connections_max": 2, "trusted_key": null });
    let task = serde_json::json!({ "time_millis": 18_000, "order": order }).to_string() + "\n";
    let mut stream = UnixStream::connect(format!("/proc/{}/root{socket}", machine.init)).await.unwrap();
    stream.write_all(task.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let read = tokio::time::timeout(STUCK, stream.read_to_end(&mut answer)).await;
    read.expect("an answer, or the end").unwrap();
    let end = answer.iter().position(|byte| *byte == b'\n').expect("the keeper says how it went");
    let head: serde_json::Value = serde_json::from_slice(&answer[..end]).unwrap();
    if head["failure"].as_str().is_some_and(|failure| failure.contains("in time")) {
        eprintln!("!!! SKIPPED: this machine is too busy for a picture within 18 s: {head}");
    } else {
        assert!(head["failure"].is_null() && answer[end + 1..].starts_with(b"RIFF"), "{head}");
    }
    page.abort();
}
