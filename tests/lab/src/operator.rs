//! The operator's side of the collector's gRPC API, as the lab needs it: tokens, the mirror list, matrix, decisions.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Deserialize;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Request, Status};
use zerkalo_core::evidence::{SecretKey, SignedList};
use zerkalo_core::market::Decision;
use zerkalo_core::target::{MirrorList, Sha256};
use zerkalo_core::words::Station;
use zerkalo_proto::operator_v1::operator_service_client::OperatorServiceClient;
use zerkalo_proto::operator_v1::{
    Agent, CreateTokenRequest, GetMatrixRequest, ListAgentsRequest, ListDecisionsRequest, Matrix,
    PutMirrorListRequest,
};

/// How long one call may take on a busy machine.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// Decisions asked for: a scenario makes a dozen.
const DECISIONS_MAX: u32 = 1_000;
/// Largest answer accepted, in bytes.
const ANSWER_LEN_MAX: usize = 64 * 1024 * 1024;

/// The operator's file as the collector writes it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OperatorFile {
    url: String,
    ca_pem: String,
    api_token: String,
    signing_key: String,
}

/// Puts the operator's token on every call.
#[derive(Clone)]
pub struct Bearer(MetadataValue<Ascii>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("authorization", self.0.clone());
        Ok(request)
    }
}

/// An operator with a line to the collector.
#[derive(Clone)]
pub struct Operator {
    service: OperatorServiceClient<InterceptedService<Channel, Bearer>>,
    signing_key: SecretKey,
}

impl Operator {
    /// Reads operator.toml; connects on the first call and anew whenever the line breaks.
    pub fn from_file(path: &Path) -> Result<Self> {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let file: OperatorFile =
            toml::from_str(&text).with_context(|| format!("cannot understand {}", path.display()))?;
        // 64 hexadecimal digits, the shape of a digest.
        let key = Sha256::from_hex(&file.signing_key).context("signing_key is no key")?;
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(file.ca_pem));
        let channel = Endpoint::from_shared(file.url)?
            .tls_config(tls)?
            .tcp_nodelay(true)
            .timeout(CALL_TIMEOUT)
            .connect_timeout(CALL_TIMEOUT)
            .connect_lazy();
        let bearer = Bearer(format!("Bearer {}", file.api_token).parse()?);
        let service = OperatorServiceClient::with_interceptor(channel, bearer)
            .max_decoding_message_size(ANSWER_LEN_MAX);
        Ok(Self { service, signing_key: SecretKey::from_bytes(&key.0) })
    }

    /// A one-time token: the whole token file.
    pub async fn create_token(&self, owner: &str, station: &Station) -> Result<String> {
        let (carrier, access) = match station {
            Station::Field { carrier, access } => (carrier.to_string(), access.to_string()),
            Station::Control => Default::default(),
        };
        let request = CreateTokenRequest {
            owner: owner.to_owned(),
            control: *station == Station::Control,
            carrier,
            access,
            valid_secs: 0,
        };
        Ok(self.service.clone().create_token(request).await?.into_inner().token)
    }

    /// Signs a list and puts it in force.
    pub async fn put_list(&self, list: &MirrorList) -> Result<()> {
        let signed = SignedList::sign(list, &self.signing_key);
        let list = Some(zerkalo_proto::evidence::list_to_wire(&signed));
        self.service.clone().put_mirror_list(PutMirrorListRequest { list }).await?;
        Ok(())
    }

    /// Everything enrolled.
    pub async fn agents(&self) -> Result<Vec<Agent>> {
        Ok(self.service.clone().list_agents(ListAgentsRequest {}).await?.into_inner().agents)
    }

    /// The state of every mirror in every market.
    pub async fn matrix(&self) -> Result<Matrix> {
        let answer = self.service.clone().get_matrix(GetMatrixRequest {}).await?.into_inner();
        Ok(answer.matrix.unwrap_or_default())
    }

    /// Every decision, the oldest first, each with the logged bytes.
    pub async fn decisions(&self) -> Result<Vec<(Decision, String)>> {
        let request = ListDecisionsRequest { market: String::new(), limit: DECISIONS_MAX };
        let mut decisions = Vec::new();
        for decision in self.service.clone().list_decisions(request).await?.into_inner().decisions {
            decisions.push((serde_json::from_str(&decision.json)?, decision.json));
        }
        decisions.sort_by_key(|(decision, _): &(Decision, String)| decision.number);
        Ok(decisions)
    }
}
