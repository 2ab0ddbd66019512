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
    let Ok(compiler) = Toolchain::find(Kind::Simt) else {
        println!("skipped: no C++ compiler to look for kernels with");
        return;
    };
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/kernels");
    let mut found = vec![];
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let output = Command::new(&compiler.program)
            .args(["-std=c++17", "-E", "-P", "-x", "c++", "-DRF_TARGET_SIMT", "-DRF_WAVE=32", "-I"])
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/include"))
            .arg(&path)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let source = path.file_stem().unwrap().to_string_lossy().into_owned();
        // Each kernel is a lane function and an exported one that unpacks its arguments.
        for part in text.split("_lane(const ").skip(1) {
            let args = part.split(' ').next().unwrap().to_owned();
            if let Some((name, _)) = part.split_once("(const void *packed)") {
                let name = name.rsplit(' ').next().unwrap().to_owned();
                found.push((name, source.clone(), args));
            }
        }
    }
    found.sort();
    let mut expected: Vec<_> =
        KERNELS.iter().map(|k| (k.name.to_owned(), k.source.to_owned(), k.args.to_owned())).collect();
    expected.sort();
    assert_eq!(found, expected);
}
