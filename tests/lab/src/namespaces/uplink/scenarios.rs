//! What censors do to an agent's own line. Each begins in mid-life, by commands in the censor's namespace.

/// The collector's name, its address, and the relay at home.
pub const COLLECTOR_URL: &str = "https://collector.lab.test:8443";
/// See [`COLLECTOR_URL`].
pub const QUIC_URL: &str = "quic://203.0.113.40:8445";
/// See [`COLLECTOR_URL`].
pub const RELAY_URL: &str = "https://198.18.0.1:9443";

/// One attack.
#[derive(Debug)]
pub struct Scenario {
    pub name: &'static str,
    /// The collector's addresses, in the order agents are given them.
    pub urls: &'static [&'static str],
    /// What the censor does from then on.
    pub censor: &'static str,
    /// Whether the connection at work is cut too: what strikes only new ones is not met before.
    pub cut: Cut,
    /// What must be seen of it.
    pub expected: Expected,
}

/// What becomes of the connection at work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    Left,
    Reset,
}

/// What must be seen, beside records that arrive and none that is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// Records arrive over this transport.
    Transport(&'static str),
    /// Connections stay short, and records arrive all the same.
    Short,
    /// The forged certificate is refused, named, and counted by the collector once the agent is there by another way.
    Intercepted,
    /// Nothing more.
    Arrival,
}

/// Every attack.
pub static ALL: [Scenario; 8] = [
    Scenario {
        name: "freeze_after_16_kb",
        urls: &[COLLECTOR_URL, QUIC_URL],
        censor: "for direction in original reply; do
             iptables-legacy -A FORWARD -p tcp -m connbytes --connbytes 16000: --connbytes-dir $direction --connbytes-mode bytes -j DROP
           done",
        cut: Cut::Left,
        expected: Expected::Transport("quic"),
    },
    Scenario {
        name: "freeze_after_16_kb_and_no_udp",
        urls: &[COLLECTOR_URL, QUIC_URL],
        censor: "for direction in original reply; do
             iptables-legacy -A FORWARD -p tcp -m connbytes --connbytes 16000: --connbytes-dir $direction --connbytes-mode bytes -j DROP
           done
           iptables-legacy -A FORWARD -p udp -j DROP",
        cut: Cut::Left,
        expected: Expected::Short,
    },
    Scenario {
        name: "reset_on_sni",
        urls: &[COLLECTOR_URL, QUIC_URL, RELAY_URL],
        censor: "iptables-legacy -A FORWARD -p tcp -m string --algo bm --string collector.lab.test -j REJECT --reject-with tcp-reset",
        cut: Cut::Reset,
        // By QUIC or by the relay: whichever answers first on a busy machine.
        expected: Expected::Arrival,
    },
    Scenario {
        name: "udp_dropped",
        urls: &[QUIC_URL, COLLECTOR_URL],
        censor: "iptables-legacy -A FORWARD -p udp -j DROP",
        cut: Cut::Left,
        expected: Expected::Transport("tcp"),
    },
    Scenario {
        name: "dns_poisoned",
        urls: &[COLLECTOR_URL, RELAY_URL],
        censor: "iptables-legacy -t nat -A PREROUTING -i home -p udp --dport 53 -j DNAT --to-destination 198.18.0.68",
        cut: Cut::Reset,
        expected: Expected::Transport("tcp"),
    },
    Scenario {
        name: "state_ca",
        urls: &[COLLECTOR_URL, QUIC_URL],
        censor: "iptables-legacy -t nat -A PREROUTING -i home -p tcp --dport 8443 -j REDIRECT --to-ports 9002",
        cut: Cut::Reset,
        expected: Expected::Intercepted,
    },
    Scenario {
        name: "loss_10_percent",
        urls: &[COLLECTOR_URL, QUIC_URL],
        censor: "iptables-legacy -A FORWARD -m statistic --mode random --probability 0.1 -j DROP",
        cut: Cut::Reset,
        expected: Expected::Arrival,
    },
    Scenario {
        name: "everything_abroad_dropped",
        urls: &[COLLECTOR_URL, QUIC_URL, RELAY_URL],
        censor: "iptables-legacy -A FORWARD -d 203.0.113.40 -j DROP",
        cut: Cut::Left,
        expected: Expected::Transport("tcp"),
    },
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::namespaces::certificates::Forger;
    use crate::namespaces::middlebox::Trick;
    use crate::namespaces::names::Lie;

    #[test]
    fn the_censor_s_commands_name_the_lab_s_own_places() {
        let censor = |name: &str| ALL.iter().find(|scenario| scenario.name == name).unwrap().censor;
        let liar = Lie::UnknownStub.resolver().to_string();
        assert!(censor("dns_poisoned").ends_with(&liar), "{liar}");
        let forger = Trick::Forge(Forger::State).port().to_string();
        assert!(censor("state_ca").ends_with(&forger), "{forger}");
    }
}
