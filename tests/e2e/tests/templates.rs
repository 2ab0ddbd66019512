//! Chat templates in the process that the host renders them in.

use rocmforge_e2e::build_folder;
use rocmforge_tokenizer::{ChatTemplate, RenderContext, RenderProcess, TemplateError};
use serde_json::{Value, json};

fn template(source: &str) -> Result<ChatTemplate, TemplateError> {
    let process =
        RenderProcess { program: build_folder().join("rocmforge-host"), args: vec!["render-templates".into()] };
    ChatTemplate::apart(process, source, Some("<s>".into()), None)
}

fn render(source: &str, messages: &Value, context: &RenderContext) -> Result<String, TemplateError> {
    template(source)?.render(messages, context)
}

#[test]
fn the_process_renders_what_this_one_would() {
    let messages =
        json!([{"role": "user", "content": "é\n\"{}'"}, {"role": "tool", "content": null, "x": [1, 2.5, 1e300]}]);
    let mut context = RenderContext { tools: Some(json!([{"b": 0.1, "a": {}}])), ..RenderContext::default() };
    context.extra.insert("day".into(), json!("Monday"));
    let sources = [
        "{{ bos_token }}{{ eos_token }}{% for m in messages %}{{ m | tojson }}{% endfor %}{{ tools | tojson }}{{ day }}",
        "{{ strftime_now('%Y') }}{{ add_generation_prompt }}{{ documents is none }}",
        "{{ raise_exception('Roles must alternate') }}",
        "{{ messages[0].content.x.y }}",
        "{% for a in range(99999) %}{{ 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx' }}{% endfor %}",
        "{% if %}",
    ];
    for source in sources {
        let here = ChatTemplate::new(source, Some("<s>".into()), None).and_then(|t| t.render(&messages, &context));
        let apart = render(source, &messages, &context);
        assert_eq!(format!("{apart:?}"), format!("{here:?}"), "{source}");
    }
}

#[test]
fn a_hostile_template_ends_itself_only() {
    let double = |times: usize| "{% set ns.x = ns.x + ns.x %}".repeat(times);
    let large = "{% set x = 'x' * 100000000 %}";
    let memory = [
        "{% set ns = namespace(x='x') %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}".to_string(),
        format!("{{% set ns = namespace(x='x') %}}{}", double(60)),
        format!("{{{{ {}'' }}}}", "'x' * 100000000 ~ ".repeat(100)),
        format!("{large}{{% set y = x | replace('x', x) %}}"),
        format!("{large}{{% set y = [x, x, x] | join(x) %}}"),
        format!("{large}{{% set y = x | upper ~ x | lower %}}"),
        "{% set y = ([0] * 100000000) | list %}".into(),
        "{% set y = (0,) * 100000000 %}".into(),
        "{% macro f() %}{{ varargs }}{% endmacro %}{{ f(*([0] * 100000000)) }}".into(),
        format!("{large}{{% set y %}}{{% for i in range(99) %}}{{{{ x }}}}{{% endfor %}}{{% endset %}}"),
        "{% set ns = namespace(x=[0]) %}{% for i in range(40) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{% set y = ns.x ~ '' %}"
            .into(),
    ];
    let plain = || (json!([{"role": "user", "content": "Hi"}]), RenderContext::default());
    for source in &memory {
        let (messages, context) = plain();
        let error = render(source, &messages, &context).expect_err(source);
        let limited = matches!(error, TemplateError::Limit { what: "memory" | "time", .. } | TemplateError::Render(_));
        assert!(limited, "{source:.120}: {error:?}");
    }
    let nested = "{% set ns = namespace(x=[0], y=[0]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% set ns.y = [ns.y, ns.y] %}{% endfor %}{{ ns.x == ns.y }}";
    let (messages, context) = plain();
    let error = render(nested, &messages, &context).expect_err("a comparison without an end");
    assert!(matches!(error, TemplateError::Limit { what: "time", .. }), "{error:?}");
}

#[test]
fn a_process_that_has_ended_is_started_again() {
    let source = "{% if messages[0].role == 'bad' %}{% set ns = namespace(x='x') %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}{% endif %}{{ messages[0].role }}";
    let template = template(source).expect("a template");
    let say = |role: &str| template.render(&json!([{"role": role}]), &RenderContext::default());
    for _ in 0..2 {
        assert_eq!(say("user").expect("an answer"), "user");
        let error = say("bad").expect_err("no end");
        assert!(matches!(error, TemplateError::Limit { what: "memory", .. }), "{error:?}");
    }
    // Long conversations get more.
    let long = "word ".repeat(1 << 20);
    assert_eq!(say(&long).expect("an answer"), long);
}
