//! The words of reasons, alerts and advice: one table of templates a language, filled with the same arguments.
//!
//! Names and technical words (`tls.timeout`, `sni`) are the same everywhere; what is a word of speech is a key of its own.

mod en;
mod kk;
mod ru;

use super::Line;
use crate::words::UnixMillis;

/// Defines the keys, each by the name of its template.
macro_rules! keys {
    ($($key:ident),+ $(,)?) => {
        /// One template.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub(crate) enum Key { $($key),+ }

        #[cfg(test)]
        const ALL: &[Key] = &[$(Key::$key),+];
    };
}

keys!(
    Works,
    Unheard,
    Recovered,
    RedCarriers,
    RedCarriersWeighed,
    Confirmed,
    StandbyBlocked,
    CauseName,
    CauseAddresses,
    CauseEch,
    CauseQuic,
    ImpairedQuic,
    ImpairedEch,
    ImpairedTransfer,
    ImpairedAddresses,
    ControlFails,
    DomainLost,
    NetworkState,
    OriginRefuses,
    Silence,
    Leader,
    LagHistory,
    LagPlaybook,
    LaggardWorks,
    Carrier,
    CellFirst,
    CellBlocked,
    CellBlockedBy,
    CellState,
    Ordered,
    OrderedUntil,
    Frozen,
    DryRun,
    WaitsForPeople,
    QuietHours,
    CoolDown,
    RotationsADay,
    Approved,
    WaitOver,
    TakesItsPlace,
    NoStandby,
    StandbyFound,
    AdvicePause,
    AdvicePrepare,
    AdviceFalling,
    AdviceDead,
    AlertPoolEmpty,
    AlertPoolLow,
    AlertPoolForecast,
    AlertPoolUnforeseen,
    AlertUnblocked,
    AlertApproval,
    AlertBlockSuspected,
    AlertListExpiring,
    AlertListEnded,
    ActionKeep,
    ActionPrepare,
    ActionPause,
    ActionRotate,
    ActionRetire,
    ActionHold,
    ActionMoveHosting,
    ActionChangeCdnRule,
    ActionDisableEch,
    ActionDisableH3,
    ActionFixOrigin,
    ActionDomainLost,
    StateRed,
    StateSuspect,
    StateRestricted,
    StateDown,
    StateRefused,
    StateGreen,
    StateStale,
    StateInsufficient,
    AccessFixed,
    AccessMobile,
    Days,
    Hours,
    Minutes,
    Seconds,
);

/// What stands in a placeholder.
#[derive(Debug, Clone)]
pub(crate) enum Arg {
    /// The same in every language.
    Text(String),
    /// A word of speech.
    Term(Key),
    /// A time in seconds.
    Span(u64),
    /// Lines, separated by semicolons.
    List(Vec<Line>),
}

impl From<&str> for Arg {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<u32> for Arg {
    fn from(number: u32) -> Self {
        Self::Text(number.to_string())
    }
}

impl From<UnixMillis> for Arg {
    fn from(at: UnixMillis) -> Self {
        Self::Text(at.to_rfc3339())
    }
}

/// A language of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Language {
    En,
    Ru,
    Kk,
}

impl Language {
    fn template(self, key: Key) -> &'static str {
        let templates = match self {
            Self::En => en::TEMPLATES,
            Self::Ru => ru::TEMPLATES,
            Self::Kk => kk::TEMPLATES,
        };
        // That each has each key is tested.
        templates.iter().find(|(known, _)| *known == key).map_or("", |(_, text)| text)
    }

    fn of(self, line: &Line) -> &str {
        match self {
            Self::En => &line.en,
            Self::Ru => &line.ru,
            Self::Kk => &line.kk,
        }
    }
}

/// A template filled in every language. An argument that no placeholder names is left out.
pub(crate) fn line(key: Key, args: &[(&str, Arg)]) -> Line {
    let fill = |language: Language| {
        let mut text = String::new();
        for piece in language.template(key).split_inclusive('}') {
            match piece.split_once('{') {
                Some((before, name)) => {
                    text += before;
                    let name = name.trim_end_matches('}');
                    let arg = args.iter().find(|(known, _)| *known == name);
                    text += &arg.map_or_else(String::new, |(_, arg)| render(language, arg));
                }
                None => text += piece,
            }
        }
        text
    };
    Line { en: fill(Language::En), ru: fill(Language::Ru), kk: fill(Language::Kk) }
}

fn render(language: Language, arg: &Arg) -> String {
    match arg {
        Arg::Text(text) => text.clone(),
        Arg::Term(key) => language.template(*key).to_owned(),
        Arg::Span(secs) => {
            let units = [(86_400, Key::Days), (3_600, Key::Hours), (60, Key::Minutes), (1, Key::Seconds)];
            // The largest unit that tells the time to a tenth of itself.
            let fits =
                |unit: &&(u64, Key)| *secs >= unit.0 && (secs.is_multiple_of(unit.0) || *secs >= 10 * unit.0);
            let (unit, key) = units.iter().find(fits).unwrap_or(&units[3]);
            format!("{} {}", secs / unit, language.template(*key))
        }
        Arg::List(lines) => lines.iter().map(|line| language.of(line)).collect::<Vec<_>>().join("; "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn placeholders(text: &str) -> BTreeSet<&str> {
        text.split('{').skip(1).map(|rest| rest.split_once('}').unwrap().0).collect()
    }

    #[test]
    fn every_language_has_every_key_with_the_same_placeholders() {
        for key in ALL {
            let english = Language::En.template(*key);
            assert!(!english.is_empty());
            for language in [Language::Ru, Language::Kk] {
                let text = language.template(*key);
                assert!(!text.is_empty(), "{key:?} in {language:?}");
                assert_eq!(placeholders(text), placeholders(english), "{key:?}: {text}");
                let speech = text.split('{').map(|part| part.rsplit('}').next().unwrap()).collect::<String>();
                let is_translated = speech.chars().any(|c| ('\u{400}'..'\u{530}').contains(&c))
                    || !speech.chars().any(char::is_alphabetic);
                assert!(is_translated, "{key:?} in {language:?}: {text}");
            }
        }
    }

    #[test]
    fn russian_and_kazakh_are_not_the_same_text() {
        for key in ALL.iter().filter(|key| Language::Ru.template(**key).len() > 40) {
            assert_ne!(Language::Ru.template(*key), Language::Kk.template(*key), "{key:?}");
        }
    }

    #[test]
    fn a_template_is_filled_in_every_language() {
        let args = [("carrier", Arg::from("Kcell")), ("state", Arg::Term(Key::StateRed))];
        let cells = Arg::List(vec![line(
            Key::CellFirst,
            &[("access", Arg::Term(Key::AccessMobile)), ("owners", 3.into())],
        )]);
        let filled = line(Key::Carrier, &[args[0].clone(), args[1].clone(), ("cells", cells)]);
        assert_eq!(filled.en, "Kcell is red: a first mobile owner of 3 sees it blocked");
        assert!(filled.ru.starts_with("Kcell: заблокировано"), "{}", filled.ru);
        let span = |secs| line(Key::Leader, &[("carrier", Arg::Span(secs))]).en;
        for (secs, expected) in
            [(90, "90 s"), (240, "4 min"), (5_400, "90 min"), (36_001, "10 h"), (86_400, "1 d"), (0, "0 s")]
        {
            assert!(span(secs).starts_with(expected), "{secs}: {}", span(secs));
        }
    }
}
