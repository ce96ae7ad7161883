//! What matches, what it weighs, and what is no row.

use super::*;
use crate::words::UnixMillis;

#[test]
fn stub_urls_match_by_host_and_path_and_nothing_else() {
    let set = Fingerprints::built_in();
    let check = |url: &str, stub: bool| {
        let url = TargetUrl::parse(url).unwrap();
        let found = set.weigh(Sighting::Url(&url), None);
        assert_eq!(found.is_some_and(|found| found.weight == Weight::Confirms), stub, "{}", url.as_str());
    };
    check("http://warning.rt.ru/?id=5", true);
    check("http://a.warning.rt.ru/", true);
    check("http://notwarning.rt.ru/", false);
    check("http://warning.rt.ru.example/", false);
    check("http://ufanet.ru/blocking.html?x", true);
    check("http://ufanet.ru/", false);
    check("http://unblock.mts.ru/", false);
    assert!(set.captive_url(&TargetUrl::parse("http://unblock.mts.ru/pay").unwrap()).is_some());
}

#[test]
fn state_authorities_are_known_by_name_or_digest() {
    let set = Fingerprints::built_in();
    let certificate = |issuer: &str, sha256| Certificate {
        sha256,
        spki_sha256: Sha256::default(),
        subject: "CN=mirror.example".into(),
        issuer: issuer.into(),
        not_before: UnixMillis(0),
        not_after: UnixMillis(0),
        der: vec![],
    };
    let known = Sha256::from_hex("00309c736dd661da6f1eb24173aa849944c168a43a15bffd192eecfdb6f8dbd2").unwrap();
    let check = |issuer: &str, sha256, found: bool| {
        assert_eq!(set.state_ca(&[certificate(issuer, sha256)]).is_some(), found, "{issuer}");
    };
    check("C=KZ, O=ISCA, CN=Information Security Certification Authority", Sha256::default(), true);
    check("C=KZ,CN=Qaznet Trust Network", Sha256::default(), true);
    check("C=KZ, CN=Security Certificate", Sha256::default(), true);
    check("C=US, CN=Security Certificate", Sha256::default(), false);
    check("C=US, O=Let's Encrypt, CN=R11", Sha256::default(), false);
    check("CN=unknown", known, true);
    assert_eq!(
        set.host_interceptor(&[certificate("O=AO Kaspersky Lab", Sha256::default())]),
        Some("Kaspersky")
    );
}

/// The built-in set with rows "name scope location pattern-type countries confidence pattern".
pub(crate) fn with_rows(rows: &[&str]) -> Fingerprints {
    let mut set = Fingerprints::built_in();
    set.imported = rows.iter().map(|line| Row::new(row_text(line)).unwrap()).collect();
    set
}

fn row_text(line: &str) -> RowText {
    let mut words = line.splitn(7, ' ').map(str::to_owned);
    let mut next = || words.next().unwrap_or_default();
    let (name, scope, location, pattern_type, countries, confidence) =
        (next(), next(), next(), next(), next(), next());
    let anywhere = countries == "*";
    let listed = countries.split(',').filter_map(|country| Country::parse(country).ok());
    let (countries, confidence) = (listed.collect(), confidence.parse().unwrap());
    let (pattern, source) = (next(), "list".into());
    RowText { name, scope, location, pattern_type, pattern, confidence, countries, anywhere, source }
}

#[test]
fn a_row_confirms_only_where_it_is_expected() {
    let kz = Country::parse("kz").unwrap();
    let check = |row: &str, country: Option<Country>, expected: Option<Weight>| {
        let found = with_rows(&[row]).weigh(Sighting::Body("this page is blocked here"), country);
        assert_eq!(found.map(|found| found.weight), expected, "{row} in {country:?}");
    };
    use Weight::{Confirms, Suppressed, Suspicion};
    for scope in ["nat", "isp", "prod"] {
        check(&format!("r {scope} body contains KZ 5 is blocked"), Some(kz), Some(Confirms));
        check(&format!("r {scope} body contains RU,KZ 5 is blocked"), Some(kz), Some(Confirms));
        check(&format!("r {scope} body contains KZ 5 is blocked"), None, Some(Suspicion));
        check(&format!("r {scope} body contains RU 5 is blocked"), Some(kz), Some(Suspicion));
        check(&format!("r {scope} body contains - 10 is blocked"), Some(kz), Some(Suspicion));
        check(&format!("r {scope} body contains ZZ 10 is blocked"), Some(kz), Some(Suspicion));
        check(&format!("r {scope} body contains KZ 4 is blocked"), Some(kz), Some(Suspicion));
        check(&format!("r {scope} body contains * 5 is blocked"), None, Some(Confirms));
        check(&format!("r {scope} body contains KZ 5 is open"), Some(kz), None);
    }
    for scope in ["inst", "vbw", "prov"] {
        check(&format!("r {scope} body contains KZ 10 is blocked"), Some(kz), Some(Suspicion));
        check(&format!("r {scope} body contains * 10 is blocked"), Some(kz), Some(Suspicion));
    }
    check("r fp body contains - 5 is blocked", Some(kz), Some(Suppressed));
    check("r fp body contains RU 0 is blocked", None, Some(Suppressed));
}

#[test]
fn the_strongest_row_speaks_and_a_known_non_block_is_strongest() {
    let set = with_rows(&[
        "vague vbw body contains - 5 denied",
        "stub nat body contains RU 5 denied by register",
        "harmless fp body contains - 5 cache denied",
    ]);
    let ru = Country::parse("RU").ok();
    let names = |text: &str| -> Vec<String> {
        set.matches(Sighting::Body(text), ru).into_iter().map(|found| found.row).collect()
    };
    assert_eq!(names("denied by register"), ["stub", "vague"]);
    assert_eq!(names("cache denied by register"), ["harmless", "stub", "vague"]);
    // The compiled-in markers too fall silent on a known non-block.
    let page = "cache denied: включен в ЕДИНЫЙ РЕЕСТР доменных имен";
    assert_eq!(names(page), ["harmless", "built-in", "vague"]);
    assert!(names("welcome").is_empty());
}

#[test]
fn patterns_match_in_their_place_and_way() {
    let url = TargetUrl::parse("http://stub.example/a").unwrap();
    let check = |row: &str, seen: Sighting<'_>, expected: bool| {
        assert_eq!(with_rows(&[row]).weigh(seen, None).is_some(), expected, "{row}: {seen:?}");
    };
    let header = |name, value| Sighting::Header { name, value };
    check(
        "r isp header.location prefix RU 5 http://stub.example",
        header("Location", "http://stub.example/x"),
        true,
    );
    check(
        "r isp header.location prefix RU 5 http://stub.example",
        header("location", "/?u=http://stub.example"),
        false,
    );
    check(
        "r isp header.location prefix RU 5 http://stub.example",
        header("server", "http://stub.example"),
        false,
    );
    check("r isp header.location prefix RU 5 http://stub.example", Sighting::Url(&url), true);
    check("r isp header.server prefix RU 5 http://stub.example", Sighting::Url(&url), false);
    check("r isp header.server full RU 5 Wall", header("SERVER", "Wall"), true);
    check("r isp header.server full RU 5 Wall", header("server", "Wall 2"), false);
    check("r isp body full RU 5 no", Sighting::Body("no"), true);
    check("r isp body full RU 5 no", Sighting::Body("no!"), false);
    check("r isp body regexp RU 5 b.*ed\\.$", Sighting::Body("is blocked."), true);
    check("r isp body regexp RU 5 ^b.*ed", Sighting::Body("is blocked."), false);
    check("r isp dns full RU 5 192.0.2.1", Sighting::Address("192.0.2.1".parse().unwrap()), true);
    check("r isp dns full RU 5 192.0.2.1", Sighting::Address("::ffff:192.0.2.1".parse().unwrap()), true);
    check("r isp dns full RU 5 192.0.2.1", Sighting::Address("192.0.2.11".parse().unwrap()), false);
    check("r isp dns prefix RU 5 192.0.2.", Sighting::Address("192.0.2.11".parse().unwrap()), true);
    check("r isp dns full RU 5 2001:DB8:0::1", Sighting::Address("2001:db8::1".parse().unwrap()), true);
    check("r isp body contains RU 5 192.0.2.1", Sighting::Address("192.0.2.1".parse().unwrap()), false);
}

#[test]
fn what_is_no_row_says_why() {
    let check = |line: &str, part: &str| {
        let error = Row::new(row_text(line)).unwrap_err();
        assert!(error.to_string().contains(part), "{line}: {error}");
    };
    check(" nat body contains RU 5 x", "name");
    check("r nat body contains RU 5 ", "match everything");
    check("r fp body contains RU 5 x\u{fffd}", "U+FFFD");
    check("r nat body glob RU 5 x", "\"glob\"");
    check("r nat body regexp RU 5 (x", "unclosed group");
    check("r nat body regexp RU 5 (x{1000}){1000}", "size limit");
    check("r nat footer contains RU 5 x", "\"footer\"");
    check("r nat header. contains RU 5 x", "\"header.\"");
    check("r nat body contains RU 11 x", "11");
    check(&format!("r nat body contains RU 5 {}", "x".repeat(PATTERN_LEN_MAX + 1)), "limit is 4096");
}

#[test]
fn imported_rows_are_read_from_the_same_file() {
    let row = "[[imported]]\nname = \"r\"\nscope = \"nat\"\nlocation = \"body\"\npattern_type = \"regexp\"\n\
        pattern = 'b.d'\nconfidence = 5\ncountries = [\"ru\"]\n";
    let set = Fingerprints::parse(&format!("{BUILT_IN}\n{row}")).unwrap();
    assert_eq!(set.imported().len(), 1);
    assert!(set.weigh(Sighting::Body("bad"), Country::parse("RU").ok()).is_some());
    assert!(Fingerprints::built_in().imported().is_empty());
    let broken = format!("{BUILT_IN}\n{}", row.replace("b.d", "(b"));
    let error = Fingerprints::parse(&broken).unwrap_err();
    assert!(std::error::Error::source(&error).unwrap().to_string().contains("unclosed group"));
}
