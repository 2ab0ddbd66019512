//! What `plugins.toml` may say, and what is said of mistakes in it.

use std::path::Path;

use rocmforge_loader::Config;
use rocmforge_loader::config::LogFormat;

fn parse(text: &str) -> Result<Config, String> {
    Config::parse(text, Path::new("/etc/rocmforge/plugins.toml")).map_err(|e| e.to_string())
}

#[test]
fn mistakes_are_reported_with_file_line_and_key() {
    // `line` is where a reader has to look, `parts` what else the message must say.
    let check = |text: &str, line: usize, parts: &[&str]| {
        let message = parse(text).expect_err(text);
        let place = format!("/etc/rocmforge/plugins.toml:{line}: ");
        assert!(message.starts_with(&place), "{text:?}: expected {place:?}, found {message:?}");
        assert!(!message.contains('\n'), "{message:?}");
        for part in parts {
            assert!(message.contains(part), "{text:?}: expected {part:?} in {message:?}");
        }
    };
    check("[server]\nprot = 1", 2, &["prot", "port"]);
    check("\n[sever]\nport = 1", 2, &["sever", "server"]);
    check("[server]\nport = 99999", 2, &["port", "99999"]);
    check("[server]\nport = \"8080\"", 2, &["port", "string"]);
    check("[server]\nport = -1", 2, &["port", "-1"]);
    check("[server]\nmax_body_mib = 0", 2, &["max_body_mib", "nonzero"]);
    check("[scheduler]\n\nblock_size = 0", 3, &["block_size", "nonzero"]);
    check("[scheduler]\nmax_sequences = 1.5", 2, &["max_sequences", "1.5"]);
    check("[scheduler]\nprefix_cache = 1", 2, &["prefix_cache", "boolean"]);
    check("[placement]\nthreads = 0", 2, &["threads", "nonzero"]);
    check("[placement]\nbackends = \"cpu\"", 2, &["backends", "string"]);
    check("[placement]\nbackends = [1]", 2, &["backends", "integer"]);
    check("[log]\nformat = \"xml\"", 2, &["format", "xml", "human", "json"]);
    check("search_paths = [\"a\"]\nsearch_path = \"b\"", 2, &["search_path"]);
    check("[[plugins]]\nname = \"cpu\"\noptoinal = true", 3, &["optoinal", "optional"]);
    check("[[plugins]]\nname = \"cpu\"\noptional = \"yes\"", 3, &["optional", "string"]);
    check("[[plugins]]\nname = \"cpu\"\n[[plugins]]\noptional = true", 3, &["plugins", "name", "path"]);
    check("[[plugins]]\nname = \"a\"\n[[ plugins ]] # no name\n", 3, &["plugins", "name", "path"]);
    check("[[plugins]]\nname = \"cpu\"\npath = \"x.so\"", 1, &["plugins", "name", "path"]);
    check("[models.tiny]\ncontext_length = 10", 1, &["path"]);
    check("[models.tiny]\npath = \"m.gguf\"\ncontext_length = 0", 3, &["context_length", "nonzero"]);
    check("[models.tiny]\npath = \"m.gguf\"\nload = \"later\"", 3, &["load", "later", "start", "use"]);
    check("[models.tiny]\npath = \"m.gguf\"\ncontext = 10", 3, &["context", "context_length"]);
    check("[server]\nport = 1\nport = 2", 3, &["port", "duplicate"]);
    check("[server\nport = 1", 1, &[]);
    check("[server]\nport 1", 2, &[]);
    check("[server]\nhost = \"127.0.0.1", 2, &["host"]);
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let message = Config::read(Path::new("/nowhere/plugins.toml")).expect_err("no such file").to_string();
    assert!(message.starts_with("/nowhere/plugins.toml: cannot be read: "), "{message}");
}

#[test]
fn an_empty_file_gives_the_documented_defaults() {
    let config = parse("").expect("defaults");
    assert!(config.plugins.is_empty() && config.models.is_empty() && config.search_paths.is_empty());
    assert!(config.placement.backends.is_empty() && config.placement.fallback && config.placement.threads.is_none());
    assert_eq!((config.server.host.as_str(), config.server.port), ("127.0.0.1", 8080));
    assert_eq!((config.server.max_body_mib.get(), config.server.shutdown_seconds), (32, 30));
    assert_eq!(config.server.api_keys_file, None);
    let s = &config.scheduler;
    assert_eq!((s.max_sequences.get(), s.max_step_tokens.get(), s.block_size.get(), s.max_queue), (16, 512, 16, 256));
    assert!(s.prefix_cache && s.kv_cache_mib.is_none());
    assert_eq!((config.log.format, config.log.filter), (LogFormat::Human, None));
}

#[test]
fn every_setting_is_read_and_paths_are_relative_to_the_file() {
    let text = r#"
        search_paths = ["plugins", "/opt/plugins"]
        [[plugins]]
        name = "backend-cpu"
        options = { isa = "avx2", threads = 3 }
        [[plugins]]
        path = "mine/libmine.so"
        optional = true
        [placement]
        backends = ["hip", "cpu"]
        fallback = false
        threads = 2
        [models.tiny]
        path = "tiny.gguf"
        architecture = "llama"
        context_length = 512
        chat_template = "/templates/tiny.jinja"
        control_tokens_in_messages = true
        [scheduler]
        max_sequences = 4
        max_step_tokens = 64
        block_size = 32
        kv_cache_mib = 100
        max_queue = 0
        prefix_cache = false
        [server]
        host = "0.0.0.0"
        port = 0
        allowed_hosts = ["example.org"]
        cors_origins = ["https://example.org"]
        api_keys_file = "keys.txt"
        max_body_mib = 1
        shutdown_seconds = 0
        default_max_tokens = 7
        [log]
        filter = "debug"
        format = "json"
    "#;
    let config = parse(text).expect("a good file");
    let folder = Path::new("/etc/rocmforge");
    assert_eq!(config.search_paths, [folder.join("plugins"), "/opt/plugins".into()]);
    let [cpu, mine] = &config.plugins[..] else { panic!("two plugins") };
    assert_eq!((cpu.label().as_str(), cpu.optional), ("backend-cpu", false));
    assert_eq!(cpu.options["isa"].as_str(), Some("avx2"));
    assert_eq!(cpu.options["threads"].as_integer(), Some(3));
    assert_eq!((mine.path.as_deref(), mine.optional), (Some(&*folder.join("mine/libmine.so")), true));
    assert_eq!(config.placement.backends, ["hip", "cpu"]);
    assert_eq!((config.placement.fallback, config.placement.threads.map(|n| n.get())), (false, Some(2)));
    let tiny = &config.models["tiny"];
    assert_eq!(tiny.path, folder.join("tiny.gguf"));
    assert_eq!(tiny.chat_template.as_deref(), Some(Path::new("/templates/tiny.jinja")));
    assert!(tiny.control_tokens_in_messages);
    assert_eq!((tiny.architecture.as_deref(), tiny.context_length.map(|n| n.get())), (Some("llama"), Some(512)));
    let s = &config.scheduler;
    assert_eq!((s.max_sequences.get(), s.max_step_tokens.get(), s.block_size.get(), s.max_queue), (4, 64, 32, 0));
    assert_eq!((s.kv_cache_mib.map(|n| n.get()), s.prefix_cache), (Some(100), false));
    let s = &config.server;
    assert_eq!((s.host.as_str(), s.port, s.max_body_mib.get(), s.shutdown_seconds), ("0.0.0.0", 0, 1, 0));
    assert_eq!(
        (&s.allowed_hosts[..], &s.cors_origins[..]),
        (&["example.org".to_owned()][..], &["https://example.org".to_owned()][..])
    );
    assert_eq!(s.api_keys_file.as_deref(), Some(&*folder.join("keys.txt")));
    assert_eq!(s.default_max_tokens.map(|n| n.get()), Some(7));
    assert_eq!((config.log.filter.as_deref(), config.log.format), (Some("debug"), LogFormat::Json));
    assert_eq!(config.file.as_deref(), Some(Path::new("/etc/rocmforge/plugins.toml")));
}
