//! Tokenizers and templates against the ids and texts of transformers.

mod common;

use common::*;

#[test]
fn models_in_the_repository_tokenize_and_render_as_recorded() {
    for name in ["llama-bpe", "qwen2", "tekken", "glm4", "llama-spm", "gemma-spm"] {
        let tokenizer = load(&fixture(&format!("{name}.gguf")));
        check_model(&tokenizer, &expected(&fixture(&format!("{name}.json"))), name);
    }
}

#[test]
fn all_reference_models_tokenize_and_render_as_recorded() {
    let Some(packs) = shared("reference") else {
        return;
    };
    let mut models = 0;
    for entry in std::fs::read_dir(packs).unwrap() {
        let directory = entry.unwrap().path();
        if directory.join("expected.json").exists() {
            let name = directory.file_name().unwrap().to_string_lossy().into_owned();
            let tokenizer = load(&directory.join("model.gguf"));
            check_model(&tokenizer, &expected(&directory.join("expected.json")), &name);
            models += 1;
        }
    }
    assert!(models > 0);
    println!("{models} models");
}

#[test]
fn prompts_of_the_demo_models_survive_a_round_trip() {
    let Some(models) = shared("models") else {
        return;
    };
    let prompts = std::fs::read_to_string(models.join("eval_prompts.jsonl")).unwrap();
    for entry in std::fs::read_dir(models).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "gguf") {
            continue;
        }
        let tokenizer = load(&path);
        let template = tokenizer.compile_chat_template().unwrap();
        for line in prompts.lines() {
            let case: serde_json::Value = serde_json::from_str(line).unwrap();
            let prompt = template.render(&case["messages"], &Default::default()).unwrap();
            let ids = tokenizer.encode(&prompt, TEXT);
            assert!(prompt.contains("<|assistant|>"), "{prompt:?}");
            let decoded = tokenizer.decode(&ids, false);
            // SentencePiece adds a space after each special token where the file says so.
            if path.to_string_lossy().contains("mistral") {
                assert_eq!(decoded.replace("|> \n", "|>\n"), prompt);
            } else {
                assert_eq!(decoded, prompt);
            }
        }
    }
}
