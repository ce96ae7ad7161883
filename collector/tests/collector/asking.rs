//! A box that proves what it holds, on a connection whose session it knows.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::codegen::Service;
use tonic::codegen::http::Uri;
use tonic::transport::{Channel, Endpoint};
use zerkalo_core::evidence::SecretKey;
use zerkalo_core::identity::{Asked, BINDING_LABEL, Binding, Purpose, TokenMacKey, token_key};
use zerkalo_core::target::Sha256;
use zerkalo_proto::agent_v1;
use zerkalo_proto::agent_v1::enrollment_service_client::EnrollmentServiceClient;

use crate::by_quic::QuicLine;

/// Both keys of a box.
pub struct Keys {
    pub record: SecretKey,
    pub tls: KeyPair,
}

/// A connection to ask on.
pub struct Asking {
    pub client: EnrollmentServiceClient<Channel>,
    pub binding: Binding,
    /// Under a connection by QUIC.
    _endpoint: Option<quinn::Endpoint>,
}

impl Asking {
    /// Connects by QUIC, with a certificate and its key or without.
    pub async fn by_quic(port: u16, ca_pem: &str, identity: Option<(&str, &str)>) -> Self {
        let QuicLine { channel, binding, endpoint } = QuicLine::open(port, ca_pem, identity).await;
        Self { client: EnrollmentServiceClient::new(channel), binding, _endpoint: Some(endpoint) }
    }

    /// Connects, with a certificate and its key or without.
    pub async fn open(port: u16, ca_pem: &str, identity: Option<(&str, &str)>) -> Self {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca_pem.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match identity {
            None => config.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
                config.with_client_auth_cert(chain, key).unwrap()
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        let tcp = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let stream = TlsConnector::from(Arc::new(config)).connect(name, tcp).await.unwrap();
        let binding =
            Binding(stream.get_ref().1.export_keying_material([0; 32], BINDING_LABEL, None).unwrap());
        let endpoint = Endpoint::from_static("http://localhost");
        let made = Made(Arc::new(Mutex::new(Some(stream))));
        let channel = endpoint.connect_with_connector(made).await.unwrap();
        Self { client: EnrollmentServiceClient::new(channel), binding, _endpoint: None }
    }

    /// What a new box sends for a token's secret.
    pub fn enroll_request(&self, secret: &str) -> (agent_v1::EnrollRequest, Keys) {
        self.enroll_request_for(secret, "", "")
    }

    /// The same, with what the host declares of its line.
    pub fn enroll_request_for(
        &self,
        secret: &str,
        carrier: &str,
        access: &str,
    ) -> (agent_v1::EnrollRequest, Keys) {
        let tls = KeyPair::generate().unwrap();
        let record = SecretKey::from_bytes(&Sha256::of(&tls.serialize_der()).0);
        let keys = Keys { record, tls };
        (self.request_with(secret, &keys, (carrier, access)), keys)
    }

    /// The same, with keys of the caller's.
    pub fn request_with(
        &self,
        secret: &str,
        keys: &Keys,
        (carrier, access): (&str, &str),
    ) -> agent_v1::EnrollRequest {
        let request_pem = csr(&keys.tls);
        let asked = Asked {
            purpose: Purpose::Enrol,
            binding: &self.binding,
            agent: "",
            generation: 0,
            request_pem: &request_pem,
            record_key: &keys.record.public(),
            carrier,
            access,
        };
        let mac_key = TokenMacKey::of(secret);
        agent_v1::EnrollRequest {
            token_secret: String::new(),
            record_key: keys.record.public().to_bytes().to_vec(),
            carrier: carrier.to_owned(),
            access: access.to_owned(),
            token_id: mac_key.token_id().0.to_vec(),
            token_mac: asked.mac(&mac_key).to_vec(),
            token_signature: asked.sign(&token_key(secret)).to_vec(),
            record_signature: asked.sign(&keys.record).to_vec(),
            certificate_request_pem: request_pem,
        }
    }

    /// What an agent sends for its next certificate: the request, and its signature by the record key.
    pub fn next(
        &self,
        purpose: Purpose,
        agent: &str,
        generation: u64,
        (record, tls): (&SecretKey, &KeyPair),
    ) -> (String, Vec<u8>) {
        let request_pem = csr(tls);
        let asked = Asked {
            purpose,
            binding: &self.binding,
            agent,
            generation,
            request_pem: &request_pem,
            record_key: &record.public(),
            carrier: "",
            access: "",
        };
        let signature = asked.sign(record).to_vec();
        (request_pem, signature)
    }
}

fn csr(key: &KeyPair) -> String {
    CertificateParams::default().serialize_request(key).unwrap().pem().unwrap()
}

/// Gives the one connection there is.
#[derive(Clone)]
struct Made(Arc<Mutex<Option<TlsStream<TcpStream>>>>);

impl Service<Uri> for Made {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let stream = self.0.lock().unwrap().take().map(TokioIo::new);
        Box::pin(async move { stream.ok_or_else(|| io::Error::other("the connection is gone")) })
    }
}
