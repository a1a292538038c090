//! One balancer has one owner, and nothing of it is anybody else's: it may be moved to another thread, and two of them share
//! nothing but rules that neither writes. So no schedule of threads can be seen in a verdict.
//!
//! The compiler shows the first; the sources show the second: without statics, cells and atomics there is nothing to share.

use std::path::Path;

use lb_core::{Balancer, RuleTable};

#[test]
fn a_balancer_may_move_between_threads() {
    const fn moves<T: Send>() {}
    const fn is_only_written_by_its_owner<T: Sync>() {}
    const {
        moves::<Balancer<'static, Vec<u8>>>();
        moves::<RuleTable<&'static [u8]>>();
        // Whoever has `&Balancer` can only look: were there a cell in it, it would not be `Sync`.
        is_only_written_by_its_owner::<Balancer<'static, Vec<u8>>>();
    }
}

#[test]
fn there_is_nothing_to_share() {
    let mut read = 0;
    let mut directories = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("lb-core/src")];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            let code = text.lines().filter(|line| !line.trim_start().starts_with("//")).enumerate();
            for (number, line) in code {
                let shared =
                    ["static ", "Cell<", "Atomic", "Mutex", "thread_local"].iter().find(|word| line.contains(*word));
                // A lifetime is not a place.
                let shared = shared.filter(|word| **word != "static " || !line.contains("'static "));
                assert_eq!(shared, None, "{}: line {number} of code: {line}", path.display());
            }
            read += 1;
        }
    }
    assert!(read > 50, "{read} files");
}
