use std::fmt;

use crate::infer::infer_types;
use crate::op::{Op, ValueId};
use crate::program::Program;

/// The text form: one line per weight, cache, node and output.
impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let info = &self.info;
        writeln!(
            f,
            "program {} ir {}: hidden {}, vocab {}, layers {}, context {}",
            info.architecture, self.ir, info.hidden_size, info.vocab_size, info.layers, info.context_length
        )?;
        for (i, w) in self.weights.iter().enumerate() {
            writeln!(f, "@{i} = weight {} {}{:?}", w.name, w.dtype, w.dims)?;
        }
        for (i, c) in self.caches.iter().enumerate() {
            write!(
                f,
                "${i} = cache layer {} group {}: {} x ({} + {})",
                c.layer, c.group, c.kv_heads, c.key_dim, c.value_dim
            )?;
            match c.window {
                Some(w) => writeln!(f, " window {w}")?,
                None => writeln!(f)?,
            }
        }
        let types = infer_types(self).unwrap_or_default();
        let mut next = 0;
        for node in &self.nodes {
            let results: Vec<_> = (next..next + node.op.output_count() as u32).map(ValueId).collect();
            next += results.len() as u32;
            let names: Vec<_> = results.iter().map(|r| r.to_string()).collect();
            let shapes: Vec<_> = results.iter().map(|&r| types.get(r).map_or("?".into(), |t| t.to_string())).collect();
            write!(f, "{} = {}", names.join(", "), node.op.name())?;
            write_attributes(f, &node.op)?;
            write!(f, " : {}", shapes.join(", "))?;
            match node.layer {
                Some(l) => writeln!(f, " #{l}")?,
                None => writeln!(f)?,
            }
        }
        for o in &self.outputs {
            writeln!(f, "output {} = {}", o.name, o.value)?;
        }
        Ok(())
    }
}

fn write_attributes(f: &mut fmt::Formatter<'_>, op: &Op) -> fmt::Result {
    for v in op.inputs() {
        write!(f, " {v}")?;
    }
    for w in op.weights() {
        write!(f, " {w}")?;
    }
    let references = [
        "op",
        "x",
        "a",
        "b",
        "xs",
        "ids",
        "rows",
        "gate",
        "up",
        "table",
        "weight",
        "bias",
        "positions",
        "q",
        "k",
        "v",
        "logits",
        "experts",
        "weights",
        "inputs",
        "decomposition",
        "results",
        "outputs",
        "factors",
        "sinks",
    ];
    let Ok(serde_json::Value::Object(fields)) = serde_json::to_value(op) else { return Ok(()) };
    for (key, value) in
        fields.iter().filter(|(k, v)| !(references.contains(&k.as_str()) && !v.is_string() || *k == "op"))
    {
        match value {
            serde_json::Value::String(s) => write!(f, " {key}={s}")?,
            // Every number of an operation is an f32; as f64 it would show digits that nobody wrote.
            serde_json::Value::Number(n) if n.is_f64() => {
                write!(f, " {key}={:?}", n.as_f64().unwrap_or_default() as f32)?;
            }
            value if key == "cache" => write!(f, " ${value}")?,
            value => write!(f, " {key}={value}")?,
        }
    }
    Ok(())
}
