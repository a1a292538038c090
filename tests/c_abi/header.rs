//! `lb_core.h`, made from lb-core's sources. The committed one must be equal; `BLESS=1 cargo test --test c_abi` writes it.

use std::fmt::Write;
use std::path::Path;

use cbindgen::{Builder, Config, DocumentationStyle, EnumConfig, ExportConfig, Language, RenameRule, Style};
use lb_core::{DropReason, RejectReason, Verdict};

/// Numbers that C may fill with anything, and the enums whose numbers they should be.
const BYTES: &[(&str, &str)] = &[
    ("LinkByte", "lb_link"),
    ("ChecksumByte", "lb_checksum"),
    ("OriginByte", "lb_origin"),
    ("ActionByte", "lb_action"),
    ("DirectionByte", "lb_direction"),
    ("CodeByte", "lb_code"),
    ("StateByte", "lb_state"),
    ("StatusNumber", "lb_status"),
];

const FIRST_LINES: &str = "\
/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * lb_core: the packet path of a Kubernetes Service proxy, for C11 and C++17.
 *
 * The conventions of these functions are on one page, README.md beside this file. Made by cbindgen from
 * lb-core/src/ffi, do not edit. */";

#[test]
fn the_committed_header_is_what_the_sources_say() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("lb-core/include/lb_core.h");
    let header = generate();
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, &header).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = committed.lines().zip(header.lines()).find(|(was, is)| was != is);
    assert!(committed == header, "lb_core.h is out of date at {differs:?}: BLESS=1 cargo test --test c_abi");
}

fn generate() -> String {
    let mut config = Config {
        language: Language::C,
        cpp_compat: true,
        style: Style::Both,
        documentation_style: DocumentationStyle::Doxy,
        usize_is_size_t: true,
        no_includes: true,
        header: Some(FIRST_LINES.to_owned()),
        include_guard: Some("LB_CORE_H".to_owned()),
        after_includes: Some(preamble()),
        line_length: 110,
        tab_width: 4,
        sort_by: cbindgen::SortKey::None,
        enumeration: EnumConfig {
            prefix_with_name: true,
            rename_variants: RenameRule::ScreamingSnakeCase,
            must_use: None,
            ..EnumConfig::default()
        },
        export: ExportConfig { exclude: vec!["LB_SECOND".to_owned()], ..ExportConfig::default() },
        ..Config::default()
    };
    config.sys_includes = ["stdbool.h", "stddef.h", "stdint.h"].map(str::to_owned).to_vec();
    config.function.must_use = Some("LB_MUST_USE".to_owned());
    for (byte, name) in BYTES {
        config.export.exclude.push((*byte).to_owned());
        config.export.include.push((*name).to_owned());
        config.export.rename.insert((*byte).to_owned(), (*name).to_owned());
    }
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("lb-core/src/ffi/mod.rs");
    let builder = Builder::new().with_config(config).with_src(sources);
    let mut bytes = Vec::new();
    builder.generate().unwrap().write(&mut bytes);
    tidied(&String::from_utf8(bytes).unwrap())
}

/// What is not read off the interface's own files: the unit of time, and the one list of verdicts and reasons.
fn preamble() -> String {
    let mut text = "
#if defined(__cplusplus)
#define LB_MUST_USE [[nodiscard]]
#elif defined(__GNUC__)
#define LB_MUST_USE __attribute__((warn_unused_result))
#else
#define LB_MUST_USE
#endif

/**
 * One second, in the unit of every time here.
 */
#define LB_SECOND UINT64_C(1000000000)

/**
 * Why a packet got its verdict. Numbers are never given to other reasons.
 */
enum lb_code
#ifdef __cplusplus
  : uint8_t
#endif // __cplusplus
 {
"
    .to_owned();
    for code in 0..Verdict::CODES as u8 {
        let Some(label) = Verdict::label(code) else { continue };
        let drop = DropReason::from_code(code).map(DropReason::explanation);
        let explanation = drop.or_else(|| RejectReason::from_code(code).map(RejectReason::explanation));
        if let Some(explanation) = explanation {
            writeln!(text, "    /**\n     * {explanation}\n     */").unwrap();
        }
        writeln!(text, "    LB_CODE_{} = {code},", label.to_uppercase().replace('-', "_")).unwrap();
    }
    text + "};\n#ifndef __cplusplus\ntypedef uint8_t lb_code;\n#endif // __cplusplus"
}

/// Without what only Rust's documentation needs (the sections on safety), and with short comments on one line.
fn tidied(header: &str) -> String {
    let mut kept: Vec<String> = Vec::new();
    let mut unsafe_section = false;
    for line in header.lines() {
        match line.trim() {
            "* # Safety" => {
                unsafe_section = true;
                while kept.last().is_some_and(|last| last.trim() == "*") {
                    kept.pop();
                }
            }
            "*/" => unsafe_section = false,
            _ => {}
        }
        if unsafe_section {
            continue;
        }
        if let [.., open, text] = kept.as_slice()
            && (line.trim(), open.trim()) == ("*/", "/**")
            && text.len() < 110
        {
            let short = format!("{}{} */", open.trim_end(), text.trim_start().trim_start_matches('*'));
            kept.truncate(kept.len() - 2);
            kept.push(short);
        } else {
            kept.push(line.trim_end().to_owned());
        }
    }
    kept.join("\n") + "\n"
}
