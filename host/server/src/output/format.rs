//! The forms in which families of models write calls.

use rocmforge_tokenizer::Tokenizer;
use serde_json::Value;

/// A call of a tool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) name: String,
    /// A JSON object as text.
    pub(crate) arguments: String,
}

impl Call {
    pub(crate) fn new(name: &str, arguments: &Value) -> Call {
        Call { name: name.into(), arguments: arguments.to_string() }
    }
}

/// How a model writes calls. Found out from its chat template, which writes those of earlier answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// `<tool_call>{"name": …, "arguments": {…}}</tool_call>`: Qwen, Hermes, and models whose template knows no tools,
    /// which are told to write so.
    Tagged,
    /// `<tool_call>name<arg_key>…</arg_key><arg_value>…</arg_value></tool_call>`: GLM-4.5 and later.
    TaggedArguments,
    /// `[TOOL_CALLS][{"name": …, "arguments": {…}}, …]`: Mistral, until 2024.
    MistralList,
    /// `[TOOL_CALLS]name[ARGS]{…}`: Mistral, since 2025.
    MistralNamed,
    /// An answer that is `{"name": …, "parameters": {…}}`, perhaps behind `<|python_tag|>`: Llama 3.
    Llama,
    /// An answer that is the name on a line of its own and then the arguments: GLM-4.
    NameLine,
    /// An answer that is JSON as Llama's, a list of calls in Python, or such a thing in a fence; and
    /// `<start_function_call>call:name{…}<end_function_call>`: Gemma.
    Gemma,
}

/// Control tokens that show where calls and reasoning are, if they are in the vocabulary.
const MARKERS: &[&str] = &[
    "<tool_call>",
    "</tool_call>",
    "<arg_key>",
    "</arg_key>",
    "<arg_value>",
    "</arg_value>",
    "[TOOL_CALLS]",
    "[ARGS]",
    "[CALL_ID]",
    "<|python_tag|>",
    "<start_function_call>",
    "<end_function_call>",
    "<escape>",
    "<think>",
    "</think>",
];

impl Format {
    pub(crate) fn of(template: Option<&str>) -> Format {
        let has = |text: &str| template.is_some_and(|t| t.contains(text));
        match () {
            () if has("[TOOL_CALLS]") && has("[ARGS]") => Format::MistralNamed,
            () if has("[TOOL_CALLS]") => Format::MistralList,
            () if has("<tool_call>") && has("<arg_key>") => Format::TaggedArguments,
            () if has("<tool_call>") => Format::Tagged,
            () if has("<|python_tag|>") || has("<|start_header_id|>") => Format::Llama,
            () if has("<|observation|>") => Format::NameLine,
            () if has("<start_of_turn>") || has("<start_function_call>") => Format::Gemma,
            () => Format::Tagged,
        }
    }

    /// Characters of a call's id; Mistral's templates insist on them.
    pub(crate) fn id_length(self) -> usize {
        match self {
            Format::MistralList | Format::MistralNamed => 9,
            _ => 24,
        }
    }
}

/// The control tokens of a vocabulary that are part of an answer's text, so that calls and reasoning can be found in it.
pub(crate) fn markers(tokenizer: &Tokenizer) -> Vec<u32> {
    MARKERS.iter().filter_map(|text| control(tokenizer, text)).collect()
}

/// The control token that is written like this.
pub(super) fn control(tokenizer: &Tokenizer, text: &str) -> Option<u32> {
    let options = rocmforge_tokenizer::EncodeOptions { add_special: false, parse_special: true };
    match tokenizer.encode(text, options).as_slice() {
        &[id] if tokenizer.is_special(id) => Some(id),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_template_tells_how_calls_are_written() {
        let check =
            |template: Option<&str>, expected: Format| assert_eq!(Format::of(template), expected, "{template:?}");
        check(None, Format::Tagged);
        check(Some("{{ '<|im_start|>' }}"), Format::Tagged);
        check(Some("<|im_start|> <tool_call>\n{\"name\": "), Format::Tagged);
        check(Some("<tool_call>{{ name }}<arg_key>"), Format::TaggedArguments);
        check(Some("[AVAILABLE_TOOLS] [TOOL_CALLS] ["), Format::MistralList);
        check(Some("[TOOL_CALLS]{{ name }}[ARGS]"), Format::MistralNamed);
        check(Some("<|start_header_id|> <|python_tag|> \"parameters\": "), Format::Llama);
        check(Some("[gMASK]<sop> <|observation|>"), Format::NameLine);
        check(Some("<start_of_turn>model"), Format::Gemma);
    }
}
