//! The vocabulary of verdicts: what one record, with its control, says. Words here are stored and shown: never renamed.

use serde::{Deserialize, Serialize};

use crate::target::Sha256;

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$vdoc])* #[serde(rename = $text)] $variant),+
        }

        impl $name {
            /// Every word, in order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The word as stored and shown.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}
pub(crate) use words;

words!(
    /// What became of the visit.
    Outcome {
        Ok = "ok",
        Blocked = "blocked",
        /// Loads, degraded.
        Impaired = "impaired",
        /// The origin refuses this country.
        Refused = "refused",
        /// The control fails too.
        Down = "down",
        /// A state of the agent's network, not of the mirror.
        Restricted = "restricted",
        /// No control, agent ill, contradictory.
        Insufficient = "insufficient",
    }
);

words!(
    /// How it was blocked.
    Mechanism {
        DnsNxdomain = "dns.nxdomain",
        DnsRefused = "dns.refused",
        DnsServfail = "dns.servfail",
        DnsTimeout = "dns.timeout",
        DnsInjectionBlockpage = "dns.injection.blockpage",
        DnsInjectionBogon = "dns.injection.bogon",
        DnsInjectionOther = "dns.injection.other",
        TcpTimeout = "tcp.timeout",
        TcpReset = "tcp.reset",
        TcpRefused = "tcp.refused",
        TcpUnreachable = "tcp.unreachable",
        TlsTimeout = "tls.timeout",
        TlsReset = "tls.reset",
        TlsEof = "tls.eof",
        TlsMitmStateCa = "tls.mitm.state_ca",
        TlsMitmOther = "tls.mitm.other",
        HttpBlockpage = "http.blockpage",
        HttpRedirect = "http.redirect",
        HttpReset = "http.reset",
        HttpTimeout = "http.timeout",
        HttpEof = "http.eof",
        TransferFreeze = "transfer.freeze",
        TransferThrottle = "transfer.throttle",
        QuicTimeout = "quic.timeout",
        EchTimeout = "ech.timeout",
    }
);

words!(
    /// What set the censor off.
    Trigger {
        Sni = "sni",
        Ip = "ip",
        Host = "host",
        Name = "name",
        Protocol = "protocol",
        Unknown = "unknown",
    }
);

/// What one record, with its control, says; with the rule that said so and the facts it rests on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    pub outcome: Outcome,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mechanism: Option<Mechanism>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trigger: Option<Trigger>,
    /// Stable id of the rule.
    pub rule: String,
    pub rules_version: String,
    /// The facts it rests on, in words.
    pub basis: Vec<String>,
    /// Hash of the control record it was compared with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub control: Option<Sha256>,
    /// Hash of another control's record of the same minutes that says otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dissent: Option<Sha256>,
}
