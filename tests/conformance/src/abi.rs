use std::collections::HashSet;

use rocmforge_abi::{BackendTableRef, CompileOptions, Handle, MemoryNeed, RSlice, RStr, RVec, Status, status};
use rocmforge_loader::Library;

use crate::executable;
use crate::report::Case;

pub(crate) type Check = Result<(), String>;

/// Fails with the message unless the condition holds.
pub(crate) fn ensure(holds: bool, message: impl FnOnce() -> String) -> Check {
    if holds { Ok(()) } else { Err(message()) }
}

/// A call that must succeed.
pub(crate) fn ok(call: &str, status: Status) -> Check {
    ensure(status.code == status::OK, || {
        format!("{call}: expected success, found code {}: {}", status.code.0, status.message)
    })
}

/// A call that must be refused, not by a panic, with a message that contains every part.
pub(crate) fn refused(call: &str, status: Status, parts: &[&str]) -> Check {
    ensure(status.code != status::OK, || format!("{call}: expected an error, found success"))?;
    ensure(status.code != status::PANIC, || format!("{call}: expected an error, found a panic: {}", status.message))?;
    let message = status.message.as_str();
    let missing = parts.iter().find(|p| !message.contains(**p));
    ensure(missing.is_none() && !message.is_empty(), || {
        format!("{call}: expected a message that names '{}', found '{message}'", missing.unwrap_or(&"the fault"))
    })
}

/// Whether a text is three numbers with dots, and perhaps a suffix.
fn is_version(text: &str) -> bool {
    let core = text.split(['-', '+']).next().unwrap_or_default();
    let parts: Vec<_> = core.split('.').collect();
    parts.len() == 3 && parts.iter().all(|p| p.parse::<u64>().is_ok())
}

/// Checks on the library and on every backend in it, over the tables as they cross the ABI.
pub(crate) fn cases<'a>(library: &'a Library, options: &toml::Table) -> Vec<Case<'a>> {
    let mut cases = vec![];
    let mut add = |name: String, run: Box<dyn Fn() -> Check + 'a>| {
        cases.push(Case { name, run: Box::new(move || run().into()) });
    };
    add("abi/loaded again".into(), Box::new(|| loaded_again(library)));
    add("abi/names and versions".into(), Box::new(|| names(library)));
    add("abi/lists are the same each time".into(), Box::new(|| lists(library)));
    let mut backends = RVec::new();
    // A failure shows in the case before.
    let _ = (library.tables().backends())(&mut backends);
    let options = json(options);
    for table in backends {
        for (name, check) in BACKEND_CHECKS {
            let options = options.clone();
            add(format!("abi/backend {}/{name}", table.name()), Box::new(move || check(table, &options)));
        }
        for (name, check) in executable::CHECKS {
            let options = options.clone();
            let run = move || {
                let backend = Instance::create(table, &options)?;
                let mut subject = executable::Exec::compile(&backend)?;
                check(&mut subject)
            };
            add(format!("abi/executable of {}/{name}", table.name()), Box::new(run));
        }
    }
    cases
}

/// Options as the host passes them on.
fn json(options: &toml::Table) -> String {
    serde_json::to_string(options).unwrap_or_default()
}

fn loaded_again(library: &Library) -> Check {
    let again = Library::open(&library.info().path).map_err(|e| e.to_string())?;
    let same = again.tables().name().as_str().as_ptr() == library.tables().name().as_str().as_ptr();
    ensure(same, || "expected the same tables when the library is opened twice".into())
}

fn names(library: &Library) -> Check {
    let info = library.info();
    ensure(!info.name.is_empty(), || "the plugin has no name".into())?;
    ensure(is_version(&info.version), || format!("version: expected one like 1.2.3, found '{}'", info.version))?;
    ensure(is_version(&info.ir_version), || {
        format!("IR version: expected one like 1.0.0, found '{}'", info.ir_version)
    })?;
    let names: Vec<&str> =
        info.architectures.iter().map(|a| a.name.as_str()).chain(info.backends.iter().map(String::as_str)).collect();
    ensure(!names.is_empty(), || "the plugin holds no architecture and no backend".into())?;
    let bad = |n: &&str| n.is_empty() || !n.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    ensure(!names.iter().any(bad), || format!("names: expected letters, digits, '-', '_', '.', found {names:?}"))?;
    let distinct = |names: Vec<&String>| names.iter().collect::<HashSet<_>>().len() == names.len();
    ensure(distinct(info.backends.iter().collect()), || format!("backends with one name: {:?}", info.backends))?;
    ensure(distinct(info.architectures.iter().map(|a| &a.name).collect()), || "architectures with one name".into())?;
    for a in &info.architectures {
        let whole = !a.claims.is_empty() && a.claims.iter().all(|c| !c.is_empty());
        ensure(whole, || format!("architecture '{}': expected claims, found {:?}", a.name, a.claims))?;
        ensure(distinct(a.claims.iter().collect()), || format!("architecture '{}': claims one value twice", a.name))?;
    }
    Ok(())
}

fn lists(library: &Library) -> Check {
    let tables = library.tables();
    for _ in 0..3 {
        let (mut architectures, mut backends) = (RVec::new(), RVec::new());
        ok("architectures", (tables.architectures())(&mut architectures))?;
        ok("backends", (tables.backends())(&mut backends))?;
        let found: Vec<String> = architectures.iter().map(|a| a.name().to_string()).collect();
        let expected: Vec<&String> = library.info().architectures.iter().map(|a| &a.name).collect();
        ensure(found.iter().eq(expected), || format!("architectures: {found:?} after another list before"))?;
        let found: Vec<String> = backends.iter().map(|b| b.name().to_string()).collect();
        ensure(found == library.info().backends, || format!("backends: {found:?} after another list before"))?;
    }
    Ok(())
}

/// An instance of a backend.
pub(crate) struct Instance {
    pub(crate) table: BackendTableRef,
    pub(crate) handle: Handle,
}

impl Instance {
    pub(crate) fn create(table: BackendTableRef, options: &str) -> Result<Instance, String> {
        let mut handle = Handle(std::ptr::null_mut());
        ok("create", (table.create())(RStr::from_str(options), &mut handle))?;
        Ok(Instance { table, handle })
    }

    /// Compiles to a handle that the caller destroys.
    pub(crate) fn compile(&self, program: &[u8], options: CompileOptions) -> (Status, Handle) {
        let mut handle = Handle(std::ptr::null_mut());
        let status = (self.table.compile())(self.handle, RSlice::from_slice(program), options, &mut handle);
        (status, handle)
    }

    fn supports(&self, op: &str, dtypes: &[u32]) -> Result<bool, String> {
        let mut out = true;
        let call = self.table.supports();
        ok("supports", call(self.handle, RStr::from_str(op), RSlice::from_slice(dtypes), &mut out))?;
        Ok(out)
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        // What `destroy` returns has a check of its own.
        let _ = (self.table.destroy())(self.handle);
    }
}

type BackendCheck = fn(BackendTableRef, &str) -> Check;

const BACKEND_CHECKS: &[(&str, BackendCheck)] = &[
    ("unknown options are refused by name", unknown_option),
    ("options that are no table are refused", malformed_options),
    ("created and destroyed many times", many_instances),
    ("devices", devices),
    ("extensions have distinct names", extensions),
    ("unknown operations and types are not supported", unknown_operations),
    ("asked from several threads at once", several_threads),
    ("programs that cannot be read are refused", malformed_programs),
    ("sizes of 0 are refused", zero_sizes),
    ("compiled and destroyed many times", many_executables),
];

fn unknown_option(table: BackendTableRef, options: &str) -> Check {
    const KEY: &str = "no_backend_has_this_option";
    let separator = if options == "{}" { "" } else { "," };
    let options = format!("{}{separator}\"{KEY}\":1}}", options.trim_end_matches('}'));
    let mut handle = Handle(std::ptr::null_mut());
    refused("create with an unknown option", (table.create())(RStr::from_str(&options), &mut handle), &[KEY])
}

fn malformed_options(table: BackendTableRef, _: &str) -> Check {
    for options in ["[1, 2]", "7", "{", "\"text\"", "{\"a\":"] {
        let mut handle = Handle(std::ptr::null_mut());
        refused(&format!("create with {options}"), (table.create())(RStr::from_str(options), &mut handle), &[])?;
    }
    Ok(())
}

fn many_instances(table: BackendTableRef, options: &str) -> Check {
    let kept = Instance::create(table, options)?;
    for _ in 0..50 {
        let mut handle = Handle(std::ptr::null_mut());
        ok("create", (table.create())(RStr::from_str(options), &mut handle))?;
        ok("destroy", (table.destroy())(handle))?;
    }
    devices_of(&kept).map(drop)
}

fn devices_of(instance: &Instance) -> Result<Vec<String>, String> {
    let mut found = RVec::new();
    ok("devices", (instance.table.devices())(instance.handle, &mut found))?;
    Ok(found.iter().map(|d| d.id.to_string()).collect())
}

fn devices(table: BackendTableRef, options: &str) -> Check {
    let instance = Instance::create(table, options)?;
    let ids = devices_of(&instance)?;
    let distinct = ids.iter().collect::<HashSet<_>>().len() == ids.len();
    let good = !ids.is_empty() && distinct && ids.iter().all(|id| !id.is_empty() && !id.contains(char::is_whitespace));
    ensure(good, || format!("expected devices with distinct ids without spaces, found {ids:?}"))?;
    let again = devices_of(&instance)?;
    ensure(again == ids, || format!("expected {ids:?} again, found {again:?}"))
}

fn extensions(table: BackendTableRef, options: &str) -> Check {
    let instance = Instance::create(table, options)?;
    let mut names = RVec::new();
    ok("extensions", (table.extensions())(instance.handle, &mut names))?;
    let distinct: HashSet<&str> = names.iter().map(|n| n.as_str()).collect();
    ensure(distinct.len() == names.len() && !distinct.contains(""), || format!("extensions: {names:?}"))
}

fn unknown_operations(table: BackendTableRef, options: &str) -> Check {
    let instance = Instance::create(table, options)?;
    let linear = r#"{"op":"linear","x":0,"weight":0}"#;
    let custom = concat!(
        r#"{"op":"custom","domain":"conformance","name":"unknown","version":1,"inputs":[],"outputs":[],"#,
        r#""decomposition":[],"results":[]}"#
    );
    let questions: [(&str, &[u32]); 6] = [
        (r#"{"op":"no_such_operation"}"#, &[]),
        ("{}", &[]),
        ("", &[]),
        ("[", &[]),
        (linear, &[99_999]),
        (custom, &[]),
    ];
    for (op, dtypes) in questions {
        let supported = instance.supports(op, dtypes)?;
        ensure(!supported, || format!("supports({op}, {dtypes:?}): expected false, found true"))?;
    }
    Ok(())
}

fn several_threads(table: BackendTableRef, options: &str) -> Check {
    let instance = Instance::create(table, options)?;
    let ask = || -> Check {
        for _ in 0..100 {
            instance.supports(r#"{"op":"linear","x":0,"weight":0}"#, &[0])?;
            devices_of(&instance)?;
        }
        Ok(())
    };
    let threads = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(ask)).collect();
        threads
            .into_iter()
            .map(|t| t.join().map_err(|_| "a thread of the kit ended in a panic".to_owned()))
            .collect::<Vec<_>>()
    });
    threads.into_iter().try_for_each(|result| result?)
}

fn malformed_programs(table: BackendTableRef, options: &str) -> Check {
    let instance = Instance::create(table, options)?;
    let good = executable::program().map_err(|e| e.to_string())?.to_bytes();
    let text = String::from_utf8_lossy(&good).into_owned();
    let cut = text.len() / 2;
    let damaged = [
        (String::new(), None),
        ("not json".to_owned(), None),
        ("{}".to_owned(), None),
        (text[..cut].to_owned(), None),
        (text.replace("1.0.0", "2.0.0"), Some("2.0.0")),
        (text.replace("\"embed\"", "\"no_such_operation\""), Some("no_such_operation")),
        (text.replace("\"table\":0", "\"table\":77"), Some("77")),
    ];
    for (program, part) in damaged {
        ensure(program != text, || "conformance kit: the damage changes nothing".into())?;
        let (status, _) = instance.compile(program.as_bytes(), executable::OPTIONS);
        refused(&format!("compile of '{:.40}'", program), status, part.as_slice())?;
    }
    Ok(())
}

fn zero_sizes(table: BackendTableRef, options: &str) -> Check {
    let instance = Instance::create(table, options)?;
    let program = executable::program().map_err(|e| e.to_string())?.to_bytes();
    let sizes = executable::OPTIONS;
    for options in [
        CompileOptions { max_tokens: 0, ..sizes },
        CompileOptions { max_sequences: 0, ..sizes },
        CompileOptions { block_size: 0, ..sizes },
    ] {
        let (status, _) = instance.compile(&program, options);
        refused(&format!("compile with {options:?}"), status, &[])?;
    }
    Ok(())
}

fn many_executables(table: BackendTableRef, options: &str) -> Check {
    let instance = Instance::create(table, options)?;
    let program = executable::program().map_err(|e| e.to_string())?.to_bytes();
    for _ in 0..50 {
        let (status, handle) = instance.compile(&program, executable::OPTIONS);
        ok("compile", status)?;
        let mut need = MemoryNeed::default();
        ok("memory", (table.executable().memory())(handle, &mut need))?;
        ensure(need.cache_block.len() == 1, || {
            format!("memory: expected bytes per block for 1 cache group, found {:?}", need.cache_block)
        })?;
        // Before any weight is bound: a load that was given up.
        ok("destroy", (table.executable().destroy())(handle))?;
    }
    Ok(())
}
