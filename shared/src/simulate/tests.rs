//! Properties of the simulation itself, and the bounds that a change of cells, markets or policies must keep.

use serde::Deserialize;

use super::*;
use crate::catalogue::Catalogue;
use crate::market::Action;
use crate::policy::{BUILT_IN, Policy};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Bounds {
    seed: u64,
    runs: u64,
    months: u64,
    all_at_once: DelayBounds,
    partial: DelayBounds,
    quiet: QuietBounds,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DelayBounds {
    alert_p95_secs_max: f64,
    warning_p95_secs_max: f64,
    rotation_p95_secs_max: Option<f64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct QuietBounds {
    reds_max: u64,
    suspicions_max: u64,
    rotations_max: u64,
}

fn policy(number: usize) -> Policy {
    Policy::parse(BUILT_IN[number], &Catalogue::built_in()).unwrap()
}

fn setup<'a>(policy: &'a Policy, noise: &'a Noise, seed: u64) -> Setup<'a> {
    Setup { policy, noise, seed, owners: 5, interval_secs: 60, is_adaptive: true }
}

/// Nothing goes wrong but what a scenario brings.
fn no_noise() -> Noise {
    let mut noise = Noise::built_in();
    noise.verdict.false_blocked = 0.0;
    noise.control.fails = 0.0;
    noise.control.outage = None;
    (noise.burst, noise.carrier_outage, noise.market_outage, noise.restriction) = (None, None, None, None);
    noise
}

#[test]
fn decisions_stay_within_the_bounds_on_record() {
    let bounds: Bounds = toml::from_str(include_str!("../../data/noise/bounds.toml")).unwrap();
    let noise = Noise::built_in();
    for number in 0..BUILT_IN.len() {
        let policy = policy(number);
        let setup = setup(&policy, &noise, bounds.seed);
        for (scenario, bound) in
            [(Scenario::AllAtOnce, &bounds.all_at_once), (Scenario::Partial, &bounds.partial)]
        {
            let report = repeat(&setup, scenario, bounds.runs);
            assert!(report.keeps_its_duty(), "{report:?}");
            assert!(report.alert.p95_secs.unwrap() <= bound.alert_p95_secs_max, "{report:?}");
            assert!(report.warning.p95_secs.unwrap() <= bound.warning_p95_secs_max, "{report:?}");
            let rotation_max = bound.rotation_p95_secs_max.unwrap_or(f64::INFINITY);
            assert!(report.rotation.p95_secs.unwrap() <= rotation_max, "{report:?}");
        }
    }
    let policy = policy(1);
    let setup = setup(&policy, &noise, bounds.seed);
    let stories: Vec<Story> = (0..bounds.months).map(|month| play(&setup, Scenario::Quiet, month)).collect();
    let quiet = summarize_quiet(&setup, &stories);
    assert!(quiet.false_reds.events <= bounds.quiet.reds_max, "{quiet:?}");
    assert!(quiet.false_suspicions.events <= bounds.quiet.suspicions_max, "{quiet:?}");
    assert!(quiet.false_rotations.events <= bounds.quiet.rotations_max, "{quiet:?}");
}

#[test]
fn the_same_seed_tells_the_same_story_and_another_does_not() {
    let (policy, noise) = (policy(0), Noise::built_in());
    let story =
        |seed, number| format!("{:?}", play(&setup(&policy, &noise, seed), Scenario::AllAtOnce, number));
    assert_eq!(story(5, 0), story(5, 0));
    assert_ne!(story(5, 0), story(6, 0));
    assert_ne!(story(5, 0), story(5, 1));
}

#[test]
fn fewer_liars_than_a_majority_never_turn_a_carrier() {
    let (policy, quiet, noise) = (policy(1), no_noise(), Noise::built_in());
    for scenario in [Scenario::Dishonest, Scenario::DishonestOnOff] {
        for seed in 0..25 {
            let story = play(&setup(&policy, &quiet, seed), scenario, 0);
            assert_eq!((story.reds, story.rotations), (0, 0), "{scenario}, seed {seed}");
            // With honest owners that err now and then, too.
            let story = play(&setup(&policy, &noise, seed), scenario, 0);
            assert_eq!((story.reds_by_liars, story.rotations), (0, 0), "{scenario}, seed {seed}");
        }
    }
}

#[test]
fn liars_turn_carriers_where_a_bare_majority_counts_at_once() {
    let (mut policy, noise) = (policy(1), Noise::built_in());
    policy.cell.bare_majority_secs = 0;
    let report = repeat(&setup(&policy, &noise, 1), Scenario::Dishonest, 10);
    assert!(report.reds_by_liars > 0 && !report.keeps_its_duty(), "{report:?}");
}

#[test]
fn who_denies_a_block_delays_it_and_no_more() {
    let (policy, noise) = (policy(1), Noise::built_in());
    let report = repeat(&setup(&policy, &noise, 1), Scenario::Denied, 10);
    assert!(report.keeps_its_duty(), "{report:?}");
    assert!(report.rotation.p95_secs.unwrap() <= 1_500.0, "{report:?}");
}

#[test]
fn one_carrier_never_rotates_a_market() {
    let (policy, noise) = (policy(1), no_noise());
    for seed in 0..20 {
        let story = play(&setup(&policy, &noise, seed), Scenario::FalseCarrier, 0);
        assert_eq!((story.reds, story.rotations), (1, 0), "seed {seed}");
        assert!(story.alert_millis.is_some(), "a carrier that is red warns");
    }
}

#[test]
fn people_hear_of_a_block_once_before_it_is_decided_about() {
    let (policy, noise, mut gained) = (policy(1), no_noise(), 0);
    for seed in 0..6 {
        for scenario in [Scenario::AllAtOnce, Scenario::FromTheStart, Scenario::FalseCarrier] {
            let story = play(&setup(&policy, &noise, seed), scenario, 0);
            assert_eq!(story.suspicions, 1, "{scenario}, seed {seed}");
            let (word, warning) = (story.alert_millis.unwrap(), story.warning_millis.unwrap());
            // One control visit may bring both.
            assert!(word <= warning, "{scenario}, seed {seed}: {word} ms and {warning} ms");
            gained += warning - word;
        }
    }
    assert!(gained >= 18 * 5_000, "{gained} ms in 18 stories");
}

#[test]
fn without_noise_nothing_happens_and_every_block_is_seen() {
    let (policy, noise) = (policy(1), no_noise());
    let quiet = play(&setup(&policy, &noise, 1), Scenario::Quiet, 0);
    assert_eq!((quiet.reds, quiet.alerts, quiet.suspicions), (0, 0, 0));
    assert_eq!(quiet.turns.iter().map(|turn| turn.action).collect::<Vec<_>>(), [Action::Keep]);
    // Nearly all of a month without noise is slept through.
    assert!(quiet.slept * 1_000 >= quiet.visits * 999, "{} of {}", quiet.slept, quiet.visits);
    // A visit a minute, more or less.
    assert!((860_000..870_000).contains(&quiet.visits), "{}", quiet.visits);
    for scenario in [Scenario::AllAtOnce, Scenario::LeaderFirst, Scenario::FromTheStart, Scenario::Partial] {
        assert!(repeat(&setup(&policy, &noise, 1), scenario, 5).keeps_its_duty(), "{scenario}");
    }
}

#[test]
fn more_noise_brings_no_fewer_false_reds() {
    let policy = policy(1);
    let reds = |false_blocked| {
        let mut noise = no_noise();
        noise.verdict.false_blocked = false_blocked;
        // A noise fifty times worse, watched as long: fewer reds by chance alone would be a wonder.
        repeat(&setup(&policy, &noise, 3), Scenario::Dishonest, 10).reds
    };
    let (little, more) = (reds(0.005), reds(0.25));
    assert!(little <= more && more > 0, "{little} reds at 0.005, {more} at 0.25");
}

#[test]
fn leaping_over_calm_turns_changes_no_rate_of_noise() {
    let policy = policy(1);
    let mut noise = no_noise();
    noise.verdict.false_blocked = 0.02;
    let story = play(&setup(&policy, &noise, 9), Scenario::Quiet, 0);
    let awake = story.visits - story.slept;
    // Each spoilt visit wakes its agent for some turns and others for one; far more or fewer would be a biased leap.
    let spoilt = story.visits as f64 * 0.02;
    assert!((4.0..20.0).contains(&(awake as f64 / spoilt)), "{awake} awake, {spoilt} spoilt");
}
