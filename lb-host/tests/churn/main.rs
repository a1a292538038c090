//! Churn: a seed decides what comes and goes under traffic; the same promises hold at every step.
//!
//! `SEEDS=100 cargo test --release -p lb-host --test churn` tries the seeds 0 to 99; `SEED=17 ...` tries one, and tells what
//! happened.

use std::time::Duration;

mod oracle;
#[path = "../../../tests/invariants/packet.rs"]
#[allow(unreachable_pub, dead_code, reason = "the invariants are others' too")]
mod packet;
#[path = "../../../tests/invariants/table.rs"]
#[allow(unreachable_pub, reason = "the invariants are others' too")]
mod table;
mod town;

use town::Town;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// What a seed's run leaves behind.
fn run(seed: u64, record: bool) -> Result<Vec<u8>, String> {
    let mut town = Town::new(seed, record);
    for _ in 0..town.steps() {
        town.disturb();
        town.run_for(Duration::from_millis(2_500));
        town.check()?;
    }
    town.settle()?;
    Ok(town.capture())
}

#[test]
fn promises_hold_whatever_comes_and_goes() {
    let seeds: Vec<u64> = number("SEED").map_or_else(|| (0..number("SEEDS").unwrap_or(3)).collect(), |seed| vec![seed]);
    for seed in seeds {
        if let Err(why) = run(seed, false) {
            panic!(
                "seed {seed}: {why}\n\nreplay: SEED={seed} cargo test --release -p lb-host --test churn -- --nocapture \
                 promises_hold"
            );
        }
    }
}

#[test]
fn a_seed_is_a_capture() {
    let seeds: Vec<u64> =
        number("SEED").map_or_else(|| (0..number("SEEDS").unwrap_or(1)).step_by(20).collect(), |seed| vec![seed]);
    for seed in seeds {
        let first = run(seed, true).unwrap_or_else(|why| panic!("seed {seed}: {why}"));
        assert!(first.len() > 100_000, "seed {seed}: {} bytes", first.len());
        assert!(Ok(first) == run(seed, true), "seed {seed}: another capture the second time");
    }
}
