//! `zerkalo-collector init DIR`: makes a directory a collector can be served from, once, with all its secrets.
//!
//! It never touches a directory that holds anything: keys made twice would lock every enrolled agent out.

use std::fs::{self, File};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zerkalo_core::evidence::SecretKey;
use zerkalo_core::target::Sha256;

use crate::authority::{Authority, AuthorityError, Issued};
use crate::clock;
use crate::config;

/// Certificate of the CA, in the collector's directory.
pub const CA_CERTIFICATE: &str = "ca/ca.pem";
/// Key of the CA.
pub const CA_KEY: &str = "ca/ca.key";
/// Certificate of both listeners.
pub const SERVER_CERTIFICATE: &str = "tls/server.pem";
/// Key of both listeners.
pub const SERVER_KEY: &str = "tls/server.key";
/// The operator's secrets, to be moved to the operator's machine.
pub const OPERATOR_FILE: &str = "operator/operator.toml";

/// What `init` is told.
#[derive(Debug)]
pub struct InitOptions {
    /// Host names and addresses in the server's certificate; the first goes into URLs.
    pub names: Vec<String>,
    pub agents_listen: SocketAddr,
    /// Where agents come in by QUIC, if they do.
    pub quic_listen: Option<SocketAddr>,
    pub operators_listen: SocketAddr,
    pub metrics_listen: SocketAddr,
}

/// Why a directory cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    #[error("{dir} is not empty; name a new directory, or remove this one if nothing in it is needed")]
    NotEmpty { dir: PathBuf },
    #[error("{path} cannot be written")]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the certificates cannot be made")]
    Authority(#[source] AuthorityError),
}

/// Makes DIR with CA, certificate, operator's secrets and configuration. Gives what to tell the person.
pub fn init(dir: &Path, options: &InitOptions) -> Result<String, InitError> {
    let fail = |path: &Path| {
        let path = path.to_owned();
        move |source| InitError::Write { path, source }
    };
    if fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(InitError::NotEmpty { dir: dir.to_owned() });
    }
    for sub in ["ca", "tls", "operator", "journal", "state"] {
        let path = dir.join(sub);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(fail(&path))?;
    }
    let now = clock::now();
    let (authority, ca) = Authority::create(now).map_err(InitError::Authority)?;
    let server = authority.server_certificate(&options.names, now).map_err(InitError::Authority)?;
    let signing_key = SecretKey::from_bytes(&clock::random());
    let api_token = URL_SAFE_NO_PAD.encode(clock::random::<32>());
    let write = |name: &str, text: &str| {
        let path = dir.join(name);
        write_private(&path, text).map_err(fail(&path))
    };
    let Issued { certificate_pem: ca_pem, key_pem: ca_key_pem } = ca;
    write(CA_CERTIFICATE, &ca_pem)?;
    write(CA_KEY, &ca_key_pem)?;
    write(SERVER_CERTIFICATE, &server.certificate_pem)?;
    write(SERVER_KEY, &server.key_pem)?;
    write(OPERATOR_FILE, &operator_text(options, &ca_pem, &api_token, &signing_key))?;
    write(config::FILE_NAME, &config_text(options, &api_token, &signing_key))?;
    Ok(next_steps(dir, options))
}

/// Writes a file nobody else may read; never over another.
pub fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
}

/// `https://HOST:PORT` under the first name.
fn url(options: &InitOptions, listen: SocketAddr) -> String {
    let name = options.names.first().map_or("localhost", String::as_str);
    if name.contains(':') {
        format!("https://[{name}]:{}", listen.port())
    } else {
        format!("https://{name}:{}", listen.port())
    }
}

fn operator_text(options: &InitOptions, ca_pem: &str, api_token: &str, key: &SecretKey) -> String {
    format!(
        r#"# The operator's secrets: who holds this file can sign mirror lists and read everything. Keep it off the collector.
url = "{url}"
api_token = "{api_token}"
# Ed25519, secret. The collector knows only the public half.
signing_key = "{signing_key}"
ca_pem = """
{ca_pem}"""
"#,
        url = url(options, options.operators_listen),
        signing_key = hex::encode(key.to_bytes()),
    )
}

/// What stands in every configuration, to be turned on.
const CONFIG_REST: &str = r#"# Redirectors and trackers ask http://ADDRESS/signal/TOKEN/kz.json which mirror is live (`zerkalo signal token`).
#[signal]
#listen = "127.0.0.1:8480"

# Data files instead of the built-in ones; a policy replaces that of its market, the others stay.
#[data]
#catalogue = "catalogue.toml"
#policies = ["policies/ru.toml", "policies/kz.toml"]
#fingerprints = "fingerprints.toml"
#networks = "GeoLite2-ASN.mmdb"      # or CSV: start,end,asn[,organisation]; cut to the catalogue's carriers

# Lines go to standard error; the level is set by the environment: ZERKALO_LOG=debug
#[log]
#format = "json"                     # or "text"
"#;

fn config_text(options: &InitOptions, api_token: &str, key: &SecretKey) -> String {
    format!(
        r#"# Configuration of zerkalo-collector. Unknown keys are refused; paths are relative to this directory.

# Public half of the operator's Ed25519 key: a mirror list not signed with it is refused, here and by every agent.
operator_key = "{operator_key}"
# Or several keys, of which some must sign (`zerkalo mirrors keygen`, `zerkalo mirrors keys`):
#operator_keys = ["...", "...", "..."]
#operator_threshold = 2

# Agents come in here: enrolment with a token, then records over mutual TLS.
[agents]
listen = "{agents_listen}"
# The same by QUIC, where TCP is frozen or reset. Any port but 443; name it below too, as "quic://HOST:PORT".
{quic_listen}
# As agents reach this collector, best first; written into tokens and told to agents. A relay's address (`zerkalo-collector
# relay`) stands here like any other. At least one host must be a name in tls/server.pem.
public_urls = [{public_urls}]
# Addresses of relays before this collector: a stream from there does not tell where its agent is.
#relays = ["192.0.2.30"]
# Agents connected by TCP at once; without it as many as the limit on open files leaves room for.
#connections_max = 10000
# Records an agent may send each second in the long run, and a hundred seconds' worth at once. One that sends faster is
# read more slowly, and loses nothing.
#records_per_sec = 500

# Operators come in here: the `zerkalo` command line.
[operators]
listen = "{operators_listen}"
# Orders of the holder of operator.toml are signed with this name; others are added by `zerkalo-collector operator add`.
#name = "operator"
# SHA-256 of the api_token in operator.toml.
api_token_sha256 = "{api_token_sha256}"

# Prometheus reads http://ADDRESS/metrics; /healthz answers "ok".
[metrics]
listen = "{metrics_listen}"

# Each decision and each alert is posted here, signed as https://www.standardwebhooks.com describes.
#[webhook]
#url = "https://example.org/zerkalo"
#secret_file = "webhook.secret"      # holds "whsec_..."

# Who carries decisions out; as many as you like, of kind "webhook", "program" or "dns".
#[[executors]]
#name = "switch"
#kind = "program"
#actions = ["pause", "rotate"]       # of which markets and actions; without them all
#command = ["bin/switch"]            # no shell; the decision comes as JSON on its standard input
#[[executors]]
#name = "dns-kz"
#kind = "dns"                        # RFC 2136 update, at a rotation that has a replacement
#markets = ["kz"]
#server = "192.0.2.53:53"
#zone = "example.org"
#record = "go.example.org"
#type = "CNAME"                      # to the replacement's host; "A" and "AAAA" want [executors.values]
#key_file = "dns.key"                # as `tsig-keygen -a hmac-sha256 zerkalo` writes it

{CONFIG_REST}"#,
        operator_key = key.public().to_hex(),
        agents_listen = options.agents_listen,
        quic_listen = match options.quic_listen {
            Some(address) => format!("quic_listen = \"{address}\""),
            None => "#quic_listen = \"0.0.0.0:8445\"".to_owned(),
        },
        public_urls = public_urls(options),
        operators_listen = options.operators_listen,
        api_token_sha256 = Sha256::of(api_token.as_bytes()),
        metrics_listen = options.metrics_listen,
    )
}

fn public_urls(options: &InitOptions) -> String {
    let tcp = url(options, options.agents_listen);
    let quic = options.quic_listen.map(|listen| url(options, listen).replacen("https", "quic", 1));
    let urls: Vec<_> = std::iter::once(tcp).chain(quic).map(|url| format!("{url:?}")).collect();
    urls.join(", ")
}

fn next_steps(dir: &Path, options: &InitOptions) -> String {
    format!(
        "Made {dir}. Next:
  1. Move {operator} to the operator's machine, as ~/.config/zerkalo/operator.toml, and delete it here:
     it holds the key that signs mirror lists.
  2. Check {config}: agents will call {url}.
  3. Start the collector: zerkalo-collector serve {dir}
  4. On the operator's machine: zerkalo mirrors add, then zerkalo tokens create for each box.
",
        dir = dir.display(),
        operator = dir.join(OPERATOR_FILE).display(),
        config = dir.join(config::FILE_NAME).display(),
        url = url(options, options.agents_listen),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use zerkalo_core::operator_keys::OperatorKeys;

    fn options() -> InitOptions {
        InitOptions {
            names: vec!["localhost".to_owned(), "127.0.0.1".to_owned()],
            agents_listen: "127.0.0.1:8443".parse().unwrap(),
            quic_listen: Some("127.0.0.1:8445".parse().unwrap()),
            operators_listen: "127.0.0.1:8444".parse().unwrap(),
            metrics_listen: "127.0.0.1:9464".parse().unwrap(),
        }
    }

    #[test]
    fn what_init_writes_can_be_served_and_is_never_overwritten() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let said = init(dir.path(), &options()).unwrap();
        assert!(said.contains("zerkalo-collector serve"));
        let config = Config::load(dir.path()).unwrap();
        assert_eq!(config.agents.public_urls, ["https://localhost:8443", "quic://localhost:8445"]);
        assert_eq!(config.agents.quic_listen, options().quic_listen);
        let operator = fs::read_to_string(dir.path().join(OPERATOR_FILE)).unwrap();
        let operator: toml::Table = operator.parse().unwrap();
        let api_token = operator["api_token"].as_str().unwrap();
        let (bearer, digest) = &config.operators.people.0[0];
        assert_eq!((bearer.0.as_str(), *digest), ("operator", Sha256::of(api_token.as_bytes())));
        let key: [u8; 32] =
            hex::decode(operator["signing_key"].as_str().unwrap()).unwrap().try_into().unwrap();
        assert_eq!(OperatorKeys::from(SecretKey::from_bytes(&key).public()), config.operator_keys);
        for secret in [OPERATOR_FILE, CA_KEY, SERVER_KEY] {
            let mode = fs::metadata(dir.path().join(secret)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{secret}");
        }
        let before = fs::read(dir.path().join(CA_KEY)).unwrap();
        let error = init(dir.path(), &options()).unwrap_err();
        assert!(matches!(error, InitError::NotEmpty { .. }), "{error}");
        assert_eq!(fs::read(dir.path().join(CA_KEY)).unwrap(), before);
    }
}
