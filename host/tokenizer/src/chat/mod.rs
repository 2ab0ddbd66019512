//! Renders conversations with a model's own Jinja template.

mod apart;
mod json;
mod python;
mod sandbox;

use std::sync::Arc;
use std::time::SystemTime;

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error, ErrorKind, Value};
use serde_json::{Map, Value as Json};

use crate::TemplateError;
use apart::Apart;
pub use apart::{RenderProcess, render_templates};
use sandbox::{Limits, check_source};

const NAME: &str = "chat_template";

/// The format of ChatML, for files without a template.
const CHATML: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

/// A compiled chat template.
///
/// Templates are Jinja as transformers runs it: `trim_blocks` and `lstrip_blocks` are on, loops have `break` and
/// `continue`, strings and mappings have Python's methods, and there are `raise_exception`, `strftime_now`, `namespace`
/// and a `tojson` that writes what Python's `json.dumps` writes.
///
/// A template comes with the model file and is not trusted. It cannot load anything; its size, the number of steps, the
/// output, the recursion and the time are limited. What a single step allocates is not: a string that is doubled again and
/// again exhausts the memory of the process. [`apart`](Self::apart) has another process do it, which the system
/// limits.
pub struct ChatTemplate {
    place: Place,
    bos_token: Option<String>,
    eos_token: Option<String>,
}

enum Place {
    Here(Box<Environment<'static>>),
    Apart(Apart),
}

/// What a template is given besides the messages.
#[derive(Clone, Debug)]
pub struct RenderContext {
    /// End the prompt with the opening of the assistant's turn.
    pub add_generation_prompt: bool,
    /// Tool definitions, in OpenAI's form.
    pub tools: Option<Json>,
    /// Further variables, such as `enable_thinking`. They take precedence over all others.
    pub extra: Map<String, Json>,
    /// The time that `strftime_now` tells, in UTC.
    pub now: SystemTime,
}

impl Default for RenderContext {
    fn default() -> Self {
        RenderContext { add_generation_prompt: true, tools: None, extra: Map::new(), now: SystemTime::now() }
    }
}

/// The message of `raise_exception`, carried through the engine's error chain.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

impl ChatTemplate {
    /// The same as [`new`](Self::new), in a process of its own.
    ///
    /// # Errors
    /// As there, or the process cannot be started.
    pub fn apart(
        process: RenderProcess,
        source: &str,
        bos_token: Option<String>,
        eos_token: Option<String>,
    ) -> Result<Self, TemplateError> {
        check_source(source)?;
        let template = serde_json::json!({"source": source, "bos": bos_token, "eos": eos_token});
        Ok(ChatTemplate { place: Place::Apart(Apart::new(process, template)?), bos_token, eos_token })
    }

    /// Compiles `source`; `bos_token` and `eos_token` are the texts of these tokens, where the model has them.
    ///
    /// # Errors
    /// The source is too long or is not valid Jinja.
    pub fn new(source: &str, bos_token: Option<String>, eos_token: Option<String>) -> Result<Self, TemplateError> {
        check_source(source)?;
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|e| TemplateError::Syntax(e.to_string()))?);
        environment.set_recursion_limit(sandbox::RECURSION);
        environment.set_unknown_method_callback(python::call_method);
        // Indenting a deeply nested value takes memory quadratic in its depth.
        environment.remove_filter("pprint");
        // And these two allocate as many items as their argument says.
        environment.remove_filter("batch");
        environment.remove_filter("slice");
        environment.remove_global("debug");
        environment.set_formatter(python::format);
        environment.add_filter("tojson", json::tojson);
        environment.add_filter("format", python::format_filter);
        environment.add_filter("indent", python::indent_filter);
        environment.add_test("iterable", python::is_iterable);
        environment.add_function("raise_exception", raise_exception);
        environment
            .add_template_owned(NAME, without_generation_tags(source))
            .map_err(|e| TemplateError::Syntax(e.to_string()))?;
        Ok(ChatTemplate { place: Place::Here(Box::new(environment)), bos_token, eos_token })
    }

    /// ChatML, the format that most models without a template of their own understand.
    pub fn fallback() -> ChatTemplate {
        ChatTemplate::new(CHATML, None, None).expect("the built-in template is valid")
    }

    /// The prompt for `messages`, an array of `{"role": …, "content": …}` objects.
    ///
    /// # Errors
    /// [`TemplateError::Raised`] if the template refuses the conversation, which is the client's mistake; else the
    /// template is at fault or has hit a limit.
    pub fn render(&self, messages: &Json, context: &RenderContext) -> Result<String, TemplateError> {
        let environment = match &self.place {
            Place::Here(environment) => environment,
            Place::Apart(apart) => return apart.render(messages, context),
        };
        let limits = Limits::for_input([Some(messages), context.tools.as_ref()].into_iter().flatten());
        let mut environment = environment.clone();
        environment.set_fuel(Some(limits.steps));
        let now = context.now;
        environment.add_function("strftime_now", move |format: &str| python::strftime(now, format));
        sandbox::run(&limits, |output| {
            let variables = self.variables(messages, context);
            let template = environment.get_template(NAME)?;
            template.render_captured_to(variables, output).map(drop)
        })
    }

    fn variables(&self, messages: &Json, context: &RenderContext) -> Value {
        let mut variables = vec![
            ("messages".to_string(), json::to_value(messages)),
            ("add_generation_prompt".into(), Value::from(context.add_generation_prompt)),
            // Templates test `tools is not none`: transformers defines both whether or not there are any.
            ("tools".into(), context.tools.as_ref().map_or(Value::from(()), json::to_value)),
            ("documents".into(), Value::from(())),
        ];
        let tokens = [("bos_token", &self.bos_token), ("eos_token", &self.eos_token)];
        for (name, token) in tokens {
            variables.extend(token.as_deref().map(|t| (name.to_string(), Value::from(t))));
        }
        variables.extend(context.extra.iter().map(|(k, v)| (k.clone(), json::to_value(v))));
        Value::from_pairs(variables)
    }
}

fn raise_exception(message: Arc<str>) -> Result<Value, Error> {
    let raised = Raised(message.to_string());
    Err(Error::new(ErrorKind::InvalidOperation, "raise_exception").with_source(raised))
}

/// Replaces transformers' `{% generation %}` blocks, which only mark the assistant's tokens for training.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("{%") {
        let Some(len) = rest[at..].find("%}") else {
            break;
        };
        let tag = &rest[at..at + len + 2];
        out.push_str(&rest[..at]);
        let inner = tag[2..len].trim_start_matches(['-', '+']).trim_end_matches(['-', '+']);
        match inner.trim() {
            "generation" => out.push_str(&tag.replace("generation", "if true")),
            "endgeneration" => out.push_str(&tag.replace("endgeneration", "endif")),
            _ => out.push_str(tag),
        }
        rest = &rest[at + len + 2..];
    }
    out.push_str(rest);
    out
}
