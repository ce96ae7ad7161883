//! The measurement as JSON has it. Tolerant: eight years of probes wrote it, each a little otherwise; what cannot be
//! read is counted and left out, so that the rest can be judged.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

/// The only test read and written.
pub const TEST_NAME: &str = "web_connectivity";

/// Why a text is no measurement of ours to judge.
#[derive(Debug, thiserror::Error)]
pub enum MeasurementError {
    #[error("not JSON")]
    Json(#[source] serde_json::Error),
    #[error("not a measurement")]
    Shape(#[source] serde_json::Error),
    #[error("a measurement of the test {0:?}; only {TEST_NAME:?} can be judged")]
    OtherTest(String),
    #[error("the measurement has no usable input URL")]
    Input(#[source] crate::target::TargetError),
}

/// One measurement.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Measurement {
    pub annotations: BTreeMap<String, Value>,
    pub data_format_version: String,
    #[serde(deserialize_with = "lenient")]
    pub input: String,
    /// `YYYY-MM-DD HH:MM:SS`, UTC.
    #[serde(deserialize_with = "lenient")]
    pub measurement_start_time: String,
    /// `AS` and digits.
    #[serde(deserialize_with = "lenient")]
    pub probe_asn: String,
    #[serde(deserialize_with = "lenient")]
    pub probe_cc: String,
    #[serde(deserialize_with = "lenient")]
    pub probe_ip: Option<String>,
    #[serde(deserialize_with = "lenient")]
    pub report_id: String,
    #[serde(deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub resolver_ip: Option<String>,
    #[serde(deserialize_with = "lenient")]
    pub software_name: String,
    #[serde(deserialize_with = "lenient")]
    pub software_version: String,
    pub test_keys: TestKeys,
    pub test_name: String,
    /// Seconds.
    #[serde(deserialize_with = "lenient")]
    pub test_runtime: f64,
    #[serde(deserialize_with = "lenient")]
    pub test_start_time: String,
    #[serde(deserialize_with = "lenient")]
    pub test_version: String,
}

impl Measurement {
    /// Reads one JSON object.
    pub fn parse(text: &str) -> Result<Self, MeasurementError> {
        let value: Value = serde_json::from_str(text).map_err(MeasurementError::Json)?;
        let measurement: Self = serde_json::from_value(value).map_err(MeasurementError::Shape)?;
        if measurement.test_name != TEST_NAME {
            return Err(MeasurementError::OtherTest(measurement.test_name.chars().take(80).collect()));
        }
        Ok(measurement)
    }

    /// One line of JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a measurement has only text keys")
    }
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TestKeys {
    pub agent: String,
    pub queries: Section<Query>,
    pub tcp_connect: Section<TcpAttempt>,
    pub tls_handshakes: Section<Handshake>,
    pub network_events: Section<NetworkEvent>,
    /// The newest first.
    pub requests: Section<Request>,
    #[serde(deserialize_with = "lenient")]
    pub control: Option<Control>,
    #[serde(deserialize_with = "lenient")]
    pub control_failure: Option<String>,
    #[serde(deserialize_with = "lenient")]
    pub dns_experiment_failure: Option<String>,
    #[serde(deserialize_with = "lenient")]
    pub http_experiment_failure: Option<String>,
    /// OONI's own: false, null or a word.
    pub blocking: Value,
    pub accessible: Value,
}

/// A list whose unreadable entries are counted and left out.
#[derive(Debug, Clone, PartialEq)]
pub struct Section<T> {
    pub entries: Vec<T>,
    pub unreadable: usize,
}

impl<T> Default for Section<T> {
    fn default() -> Self {
        Self { entries: Vec::new(), unreadable: 0 }
    }
}

impl<T> From<Vec<T>> for Section<T> {
    fn from(entries: Vec<T>) -> Self {
        Self { entries, unreadable: 0 }
    }
}

impl<T: Serialize> Serialize for Section<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.entries.serialize(serializer)
    }
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for Section<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let values = match Value::deserialize(deserializer)? {
            Value::Array(values) => values,
            Value::Null => return Ok(Self::default()),
            _ => return Ok(Self { entries: Vec::new(), unreadable: 1 }),
        };
        let count = values.len();
        let entries: Vec<T> =
            values.into_iter().filter_map(|value| serde_json::from_value(value).ok()).collect();
        Ok(Self { unreadable: count - entries.len(), entries })
    }
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Query {
    #[serde(deserialize_with = "lenient")]
    pub answers: Vec<Answer>,
    #[serde(deserialize_with = "lenient")]
    pub engine: String,
    #[serde(deserialize_with = "lenient")]
    pub failure: Option<String>,
    #[serde(deserialize_with = "lenient")]
    pub hostname: String,
    #[serde(deserialize_with = "lenient")]
    pub query_type: String,
    #[serde(deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub resolver_address: Option<String>,
    /// Seconds since the measurement began, at the end of the step.
    #[serde(deserialize_with = "lenient")]
    pub t: f64,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Answer {
    #[serde(deserialize_with = "lenient")]
    pub answer_type: String,
    #[serde(deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub ipv4: Option<String>,
    #[serde(deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<String>,
    #[serde(deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    #[serde(deserialize_with = "lenient")]
    pub ttl: Option<u32>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TcpAttempt {
    pub ip: String,
    pub port: u16,
    pub status: TcpStatus,
    #[serde(deserialize_with = "lenient")]
    pub t: f64,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TcpStatus {
    #[serde(deserialize_with = "lenient")]
    pub blocked: Option<bool>,
    #[serde(deserialize_with = "lenient")]
    pub failure: Option<String>,
    pub success: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Handshake {
    #[serde(deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    #[serde(deserialize_with = "lenient")]
    pub cipher_suite: String,
    #[serde(deserialize_with = "lenient")]
    pub failure: Option<String>,
    #[serde(deserialize_with = "lenient")]
    pub negotiated_protocol: String,
    pub no_tls_verify: bool,
    #[serde(deserialize_with = "lenient")]
    pub peer_certificates: Vec<Binary>,
    #[serde(deserialize_with = "lenient")]
    pub server_name: String,
    #[serde(deserialize_with = "lenient")]
    pub t: f64,
    #[serde(deserialize_with = "lenient")]
    pub tls_version: String,
}

/// Bytes in base64.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Binary {
    pub data: String,
    pub format: String,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkEvent {
    #[serde(deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    #[serde(deserialize_with = "lenient")]
    pub failure: Option<String>,
    #[serde(deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub num_bytes: Option<u64>,
    pub operation: String,
    #[serde(deserialize_with = "lenient")]
    pub t: f64,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Request {
    /// Where the request went; newer probes say so.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    #[serde(deserialize_with = "lenient")]
    pub failure: Option<String>,
    pub request: Asked,
    #[serde(deserialize_with = "lenient")]
    pub response: Response,
    #[serde(deserialize_with = "lenient")]
    pub t: f64,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Asked {
    #[serde(deserialize_with = "lenient")]
    pub method: String,
    pub url: String,
    #[serde(deserialize_with = "lenient")]
    pub x_transport: String,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Response {
    /// Text, or [`Binary`], or null.
    pub body: Value,
    #[serde(deserialize_with = "lenient")]
    pub body_is_truncated: bool,
    #[serde(deserialize_with = "lenient")]
    pub code: i64,
    /// Names and values; a value is text or [`Binary`].
    #[serde(deserialize_with = "lenient")]
    pub headers_list: Vec<(String, Value)>,
    #[serde(deserialize_with = "lenient")]
    pub headers: BTreeMap<String, Value>,
    /// Ours: bytes of the whole body, of which OONI's format knows only what it carries.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub x_body_length: Option<u64>,
    /// Ours: whether the mirror's canary stood in the body.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub x_canary_found: Option<bool>,
    /// Ours: the title, where the body is not carried.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub x_title: Option<String>,
}

/// What the test helper saw from outside.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Control {
    #[serde(deserialize_with = "lenient")]
    pub dns: ControlDns,
    #[serde(deserialize_with = "lenient")]
    pub http_request: ControlFetch,
    /// By `address:port`.
    #[serde(deserialize_with = "lenient")]
    pub tcp_connect: BTreeMap<String, ControlTcp>,
    /// By `address:port`; newer helpers only.
    #[serde(deserialize_with = "lenient")]
    pub tls_handshake: BTreeMap<String, ControlTls>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ControlDns {
    #[serde(deserialize_with = "lenient")]
    pub addrs: Vec<String>,
    #[serde(deserialize_with = "lenient")]
    pub failure: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ControlFetch {
    /// -1 where there is none.
    #[serde(deserialize_with = "lenient")]
    pub body_length: i64,
    #[serde(deserialize_with = "lenient")]
    pub failure: Option<String>,
    #[serde(deserialize_with = "lenient")]
    pub headers: BTreeMap<String, Value>,
    /// -1 where there is none.
    #[serde(deserialize_with = "lenient")]
    pub status_code: i64,
    #[serde(deserialize_with = "lenient")]
    pub title: Option<String>,
    /// Ours: whether the mirror's canary stood in the body.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub x_canary_found: Option<bool>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ControlTcp {
    #[serde(deserialize_with = "lenient")]
    pub failure: Option<String>,
    pub status: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ControlTls {
    #[serde(deserialize_with = "lenient")]
    pub failure: Option<String>,
    #[serde(deserialize_with = "lenient")]
    pub server_name: String,
    pub status: bool,
}

/// A value, or its default where another kind of value stands.
fn lenient<'de, D: Deserializer<'de>, T: DeserializeOwned + Default>(deserializer: D) -> Result<T, D::Error> {
    let value = Value::deserialize(deserializer)?;
    Ok(serde_json::from_value(value).unwrap_or_default())
}
