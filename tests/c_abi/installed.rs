//! `make install`, and what finds the result: CMake by `find_package`, others by pkg-config.

use std::path::Path;
use std::process::Command;

use crate::program::{run, top};

/// What a program of `installed/` says.
const SAID: &str = "compiled for 1, linked with 1\n";

/// Whether these tools are here; in CI they must be.
fn has(tools: &[&str]) -> bool {
    let here = tools.iter().all(|tool| Command::new(tool).arg("--version").output().is_ok());
    assert!(here || std::env::var_os("CI").is_none(), "{tools:?} are needed");
    if !here {
        eprintln!("skipped: one of {tools:?} is missing");
    }
    here
}

/// Installs into a stage of this name, and moves nothing elsewhere: the prefix within it is not the one that is found.
fn stage(name: &str) -> std::path::PathBuf {
    let stage = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&stage);
    let to = format!("DESTDIR={}", stage.display());
    run(Command::new("make").args(["-s", "install", "PREFIX=/opt/lb", &to, "-C"]).arg(top().join("lb-core")));
    stage.join("opt/lb")
}

#[test]
fn cmake_finds_it() {
    if !has(&["cmake", "make", "cc", "c++"]) {
        return;
    }
    let prefix = stage("cmake");
    let sources = top().join("tests/c_abi/installed");
    let configured = |sources: &Path, build: &str| {
        let found = format!("-DCMAKE_PREFIX_PATH={}", prefix.display());
        let mut cmake = Command::new("cmake");
        cmake.arg("-S").arg(sources).arg("-B").arg(prefix.join(build)).arg(found);
        cmake
    };
    run(&mut configured(&sources, "build"));
    run(Command::new("cmake").arg("--build").arg(prefix.join("build")));
    for program in ["installed_c", "installed_cpp"] {
        assert_eq!(run(&mut Command::new(prefix.join("build").join(program))), SAID, "{program}");
    }

    // A version of another series is not what was asked for.
    let text = std::fs::read_to_string(sources.join("CMakeLists.txt")).unwrap();
    for (asked, answered) in
        [("0.1", true), ("0.1.0", true), ("0.1.9", false), ("0.2", false), ("0", false), ("1.0", false)]
    {
        let other = prefix.join("asks").join(asked);
        std::fs::create_dir_all(&other).unwrap();
        for file in ["main.c", "main.cpp"] {
            std::fs::copy(sources.join(file), other.join(file)).unwrap();
        }
        std::fs::write(other.join("CMakeLists.txt"), text.replace("lb_core 0.1 ", &format!("lb_core {asked} ")))
            .unwrap();
        let output = configured(&other, &format!("asks/{asked}/build")).output().unwrap();
        assert_eq!(output.status.success(), answered, "{asked}\n{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn pkg_config_finds_it() {
    if !has(&["pkg-config", "make", "cc"]) {
        return;
    }
    let prefix = stage("pkg-config");
    let flags = run(Command::new("pkg-config")
        .args(["--define-prefix", "--cflags", "--libs", "lb_core"])
        .env("PKG_CONFIG_PATH", prefix.join("lib/pkgconfig")));
    let program = prefix.join("installed");
    run(Command::new("cc")
        .arg(top().join("tests/c_abi/installed/main.c"))
        .args(flags.split_whitespace())
        .arg("-o")
        .arg(&program));
    assert_eq!(run(&mut Command::new(&program)), SAID);
}
