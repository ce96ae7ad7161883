//! The host's consent: what this box may be used for, in the host's own language, accepted before the first probe and
//! withdrawn at any time. Kept in the state directory; nothing remote can give it.

use std::fmt::Write;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use zerkalo_core::target::{Category, MirrorList, Sha256};
use zerkalo_core::words::UnixMillis;

use crate::state::{StateDir, StateError};

/// Rises with every change of the texts' meaning: hosts are asked again.
pub const VERSION: u32 = 1;
/// The file in the state directory.
const FILE: &str = "consent.toml";
/// Between two looks whether consent still stands.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Why nothing is measured.
#[derive(Debug, thiserror::Error)]
pub enum ConsentError {
    #[error(
        "consent_missing: nobody has agreed to what this box is used for: read `zerkalo-agent consent show --language en|ru|kk`, then run \
         `zerkalo-agent consent accept {VERSION}`"
    )]
    Missing,
    #[error(
        "terms_changed: the terms have changed since version {accepted} was accepted: read `zerkalo-agent consent show`, then run \
         `zerkalo-agent consent accept {VERSION}`"
    )]
    Outdated { accepted: u32 },
    #[error(
        "consent_withdrawn: consent was withdrawn at {at}; `zerkalo-agent consent accept {VERSION}` gives it again"
    )]
    Withdrawn { at: UnixMillis },
    #[error(
        "other_terms: version {offered} of the terms cannot be accepted; this program's are version {VERSION}: read them with `zerkalo-agent consent show`"
    )]
    OtherVersion { offered: u32 },
    #[error("no_category: name at least one category of sites to agree to")]
    NoCategory,
    #[error(transparent)]
    State(#[from] StateError),
}

/// The languages the terms are in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Language {
    En,
    Ru,
    Kk,
}

impl Language {
    pub const ALL: [Self; 3] = [Self::En, Self::Ru, Self::Kk];

    /// The language of the environment's locale, as `LC_ALL`, `LC_MESSAGES` or `LANG` hold it.
    pub fn of_locale(locale: &str) -> Self {
        Self::from_str(locale.get(..2).unwrap_or_default()).unwrap_or(Self::En)
    }
}

impl FromStr for Language {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "en" => Ok(Self::En),
            "ru" => Ok(Self::Ru),
            "kk" => Ok(Self::Kk),
            other => Err(format!("{other:?}: the terms are in en, ru and kk")),
        }
    }
}

/// The terms.
pub fn terms(language: Language) -> String {
    let text = match language {
        Language::En => include_str!("../data/consent/en.txt"),
        Language::Ru => include_str!("../data/consent/ru.txt"),
        Language::Kk => include_str!("../data/consent/kk.txt"),
    };
    let mut categories = String::new();
    for category in Category::ALL {
        let _ = writeln!(categories, "- {category}: {}", described(category, language));
    }
    text.replace("{categories}\n", &categories)
}

fn described(category: Category, language: Language) -> &'static str {
    use Category::*;
    match (language, category) {
        (Language::En, News) => "newspapers, broadcasters, journalists",
        (Language::En, HumanRights) => "human-rights groups, legal aid, election observers",
        (Language::En, Commerce) => "shops and paid services",
        (Language::En, Culture) => "libraries, education, arts, religion",
        (Language::En, Communication) => "forums, messengers, tools to get around blocks",
        (Language::En, Other) => "whatever else the operator runs",
        (Language::Ru, News) => "газеты, радио и телевидение, журналисты",
        (Language::Ru, HumanRights) => "правозащитники, юридическая помощь, наблюдатели на выборах",
        (Language::Ru, Commerce) => "магазины и платные услуги",
        (Language::Ru, Culture) => "библиотеки, образование, искусство, религия",
        (Language::Ru, Communication) => "форумы, мессенджеры, средства обхода блокировок",
        (Language::Ru, Other) => "прочие сайты оператора",
        (Language::Kk, News) => "газеттер, радио мен телеарналар, журналистер",
        (Language::Kk, HumanRights) => "құқық қорғаушылар, заң көмегі, сайлау бақылаушылары",
        (Language::Kk, Commerce) => "дүкендер мен ақылы қызметтер",
        (Language::Kk, Culture) => "кітапханалар, білім, өнер, дін",
        (Language::Kk, Communication) => "форумдар, мессенджерлер, бұғаттауды айналып өту құралдары",
        (Language::Kk, Other) => "оператордың басқа сайттары",
    }
}

/// What the host agreed to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Consent {
    pub version: u32,
    pub language: Language,
    /// Of the terms as they were shown.
    pub terms_sha256: Sha256,
    pub accepted_at: UnixMillis,
    pub categories: Vec<Category>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub withdrawn_at: Option<UnixMillis>,
}

impl Consent {
    /// What of a list this box may touch: nothing where the operator says stop.
    pub fn agreed(&self, list: &MirrorList) -> MirrorList {
        let mut agreed = list.clone();
        if list.stop.is_some() {
            agreed.mirrors.clear();
            agreed.references.clear();
            agreed.tools = Default::default();
        }
        agreed.mirrors.retain(|mirror| self.categories.contains(&mirror.category.unwrap_or(Category::Other)));
        agreed
    }
}

/// Keeps the host's word: the version that was read, in a language, for some categories of sites.
pub fn accept(
    state: &StateDir,
    version: u32,
    language: Language,
    categories: &[Category],
    now: UnixMillis,
) -> Result<Consent, ConsentError> {
    if version != VERSION {
        return Err(ConsentError::OtherVersion { offered: version });
    }
    if categories.is_empty() {
        return Err(ConsentError::NoCategory);
    }
    let terms_sha256 = Sha256::of(terms(language).as_bytes());
    let categories = Category::ALL.into_iter().filter(|category| categories.contains(category)).collect();
    let consent =
        Consent { version, language, terms_sha256, accepted_at: now, categories, withdrawn_at: None };
    write(state, &consent)?;
    Ok(consent)
}

/// The consent that stands.
pub fn standing(state: &StateDir) -> Result<Consent, ConsentError> {
    match kept(state)? {
        None => Err(ConsentError::Missing),
        Some(Consent { withdrawn_at: Some(at), .. }) => Err(ConsentError::Withdrawn { at }),
        Some(consent) if consent.version != VERSION => {
            Err(ConsentError::Outdated { accepted: consent.version })
        }
        Some(consent) => Ok(consent),
    }
}

/// What was said last, if anything.
pub fn kept(state: &StateDir) -> Result<Option<Consent>, StateError> {
    let path = state.path(FILE);
    if !path.exists() {
        return Ok(None);
    }
    let consent = toml::from_str(&state.read(FILE)?);
    consent.map(Some).map_err(|error| StateError::Malformed { path, detail: error.to_string() })
}

/// Withdraws it: an agent at work ends by itself.
pub fn withdraw(state: &StateDir, now: UnixMillis) -> Result<(), ConsentError> {
    let mut consent = kept(state)?.ok_or(ConsentError::Missing)?;
    consent.withdrawn_at.get_or_insert(now);
    Ok(write(state, &consent)?)
}

/// Ends once consent does not stand any more, whoever took it away.
pub async fn withdrawn(state: StateDir) -> ConsentError {
    let mut look = tokio::time::interval(LOOK_AGAIN);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        look.tick().await;
        if let Err(error) = standing(&state) {
            return error;
        }
    }
}

fn write(state: &StateDir, consent: &Consent) -> Result<(), StateError> {
    state.write(FILE, toml::to_string(consent).expect("a consent has only text keys").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMillis = UnixMillis(5);

    fn state() -> (tempfile::TempDir, StateDir) {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::create(dir.path()).unwrap();
        (dir, state)
    }

    #[test]
    fn nothing_stands_until_the_very_version_is_accepted_nor_after_it_is_withdrawn() {
        let (_dir, state) = state();
        assert!(matches!(standing(&state), Err(ConsentError::Missing)));
        assert!(matches!(withdraw(&state, NOW), Err(ConsentError::Missing)));
        let refused = accept(&state, VERSION + 1, Language::Ru, &Category::ALL, NOW).unwrap_err();
        assert!(refused.to_string().contains("consent show"), "{refused}");
        assert!(accept(&state, VERSION, Language::Ru, &[], NOW).is_err() && standing(&state).is_err());
        let given = accept(&state, VERSION, Language::Ru, &Category::ALL, NOW).unwrap();
        assert_eq!(standing(&state).unwrap(), given);
        withdraw(&state, UnixMillis(7)).unwrap();
        withdraw(&state, UnixMillis(9)).unwrap();
        assert!(matches!(standing(&state), Err(ConsentError::Withdrawn { at: UnixMillis(7) })));
        accept(&state, VERSION, Language::Kk, &[Category::News], NOW).unwrap();
        let mut older = standing(&state).unwrap();
        older.version = 0;
        write(&state, &older).unwrap();
        assert!(matches!(standing(&state), Err(ConsentError::Outdated { accepted: 0 })));
        state.write(FILE, b"version = ").unwrap();
        assert!(matches!(standing(&state), Err(ConsentError::State(StateError::Malformed { .. }))));
    }

    #[test]
    fn the_terms_say_the_same_in_every_language() {
        let lines = |language| terms(language).lines().filter(|line| line.starts_with("- ")).count();
        for language in Language::ALL {
            let text = terms(language);
            assert_eq!(lines(language), lines(Language::En), "{language:?}");
            for part in ["touched", "consent revoke", "status", "Chromium", "www.example.com", "DNS"] {
                assert!(text.contains(part), "{language:?} lacks {part}");
            }
            assert!(text.contains(&VERSION.to_string()) && !text.contains("{categories}"), "{text}");
            assert!(Category::ALL.iter().all(|category| text.contains(&format!("- {category}: "))));
        }
        assert_eq!(
            [Language::of_locale("kk_KZ.UTF-8"), Language::of_locale("C")],
            [Language::Kk, Language::En]
        );
    }

    #[test]
    fn only_agreed_categories_are_left_of_a_list_and_nothing_of_a_stopped_one() {
        let (_dir, state) = state();
        let consent = accept(&state, VERSION, Language::En, &[Category::News], NOW).unwrap();
        let text = r#"{"version":1,"issued_at":1,"mirrors":[
            {"id":"news","url":"https://news.example/","markets":["ru"],"category":"news"},
            {"id":"shop","url":"https://shop.example/","markets":["ru"],"category":"commerce"},
            {"id":"plain","url":"https://plain.example/","markets":["ru"]}],
            "references":[{"market":"ru","side":"foreign","url":"https://reference.example/"}]}"#;
        let list: MirrorList = serde_json::from_str(text).unwrap();
        let agreed = consent.agreed(&list);
        let names: Vec<&str> = agreed.mirrors.iter().map(|mirror| mirror.id.as_str()).collect();
        assert_eq!((names, agreed.references.len()), (vec!["news"], 1));
        let stopped = MirrorList { stop: Some("law suit".to_owned()), ..list };
        let agreed = consent.agreed(&stopped);
        assert!(agreed.mirrors.is_empty() && agreed.references.is_empty() && agreed.stop.is_some());
    }

    #[tokio::test]
    async fn whoever_waits_for_a_withdrawal_hears_of_it() {
        let (_dir, state) = state();
        accept(&state, VERSION, Language::En, &Category::ALL, NOW).unwrap();
        let waiter = tokio::spawn(withdrawn(state.clone()));
        withdraw(&state, UnixMillis(7)).unwrap();
        assert!(matches!(waiter.await.unwrap(), ConsentError::Withdrawn { .. }));
    }
}
