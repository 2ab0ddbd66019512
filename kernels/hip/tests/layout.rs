//! The argument structs of Rust and of the kernels are the same bytes.

use std::fmt::Write;
use std::process::Command;

use rocmforge_kernels_hip::compile::{Kind, Toolchain};
use rocmforge_kernels_hip::{KERNELS, LAYOUTS};

#[test]
fn structs_have_the_same_layout_as_in_the_header() {
    let Ok(compiler) = Toolchain::find(Kind::Simt) else {
        println!("skipped: no C++ compiler to compare the argument structs with");
        return;
    };
    let mut source = String::from("#include <cstddef>\n#include <cstdint>\n#include \"args.h\"\n");
    for (name, size, fields) in LAYOUTS {
        writeln!(source, "static_assert(sizeof({name}) == {size}, \"{name}\");").unwrap();
        assert!(*size <= 4096, "{name} exceeds what a launch can pass");
        let mut end = 0;
        for (field, offset, bytes) in *fields {
            assert_eq!(*offset, end, "{name}: padding before {field}");
            end = offset + bytes;
            writeln!(source, "static_assert(offsetof({name}, {field}) == {offset}, \"{name}.{field}\");").unwrap();
            writeln!(source, "static_assert(sizeof({name}::{field}) == {bytes}, \"{name}.{field}\");").unwrap();
        }
        assert_eq!(*size, end, "{name}: padding at the end");
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("layout.cpp");
    std::fs::write(&file, source).unwrap();
    let output = Command::new(&compiler.program)
        .args(["-std=c++17", "-fsyntax-only", "-I", concat!(env!("CARGO_MANIFEST_DIR"), "/include")])
        .arg(&file)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn every_kernel_of_the_catalogue_is_in_its_source_and_the_other_way_round() {
    let mut found = vec![];
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/kernels");
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let source = path.file_stem().unwrap().to_string_lossy().into_owned();
        let header = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/include/gemv.h")).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        for line in text.lines().filter(|l| !l.contains("##")) {
            if let Some(rest) = line.strip_prefix("RF_KERNEL(") {
                found.push((rest.split(',').next().unwrap().to_owned(), source.clone()));
            }
            for (macro_name, text) in [("RF_GEMV(", header.as_str()), ("RF_GEMV_PLAIN(", text.as_str())] {
                let Some(rest) = line.strip_prefix(macro_name) else { continue };
                let format = rest.split(',').next().unwrap();
                let pasted = text.lines().filter_map(|l| l.trim().strip_prefix("RF_KERNEL(rf_gemv_##name##"));
                found.extend(
                    pasted.map(|l| (format!("rf_gemv_{format}{}", l.split(',').next().unwrap()), source.clone())),
                );
            }
        }
    }
    found.sort();
    let mut expected: Vec<_> = KERNELS.iter().map(|k| (k.name.to_owned(), k.source.to_owned())).collect();
    expected.sort();
    assert_eq!(found, expected);
}
