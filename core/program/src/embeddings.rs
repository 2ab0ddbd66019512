//! What a model says about whole texts: its hidden states before the head, pooled per sequence.

use crate::error::ProgramError;
use crate::infer::infer_types;
use crate::op::{InputSource, Op, ValueId};
use crate::program::{Node, OutputDecl, Program, output};
use crate::shape::Lead;

/// The end of a program: where the rows that need logits are taken out, and what is done to them before the head.
struct Tail {
    /// `[T, hidden]`: what the rows are taken of.
    source: ValueId,
    /// Nodes between the rows and the head, in order; each has the result of the one before as its only operand.
    nodes: Vec<usize>,
}

impl Program {
    /// The program with the outputs [`MEAN`](output::MEAN) and [`LAST`](output::LAST) besides: what the head works on —
    /// the final hidden states, normed —, of all tokens of the step and not of those alone that need logits, pooled per
    /// sequence. The head itself computes the rows of [`Step::logits_rows`](crate::Step::logits_rows) as before, so a
    /// step without such rows ends before it.
    ///
    /// `None`: the program does not end in a head of the usual form, a matrix on gathered rows.
    ///
    /// # Errors
    /// The program itself is not valid.
    pub fn with_embeddings(&self) -> Result<Option<Program>, ProgramError> {
        let types = infer_types(self)?;
        let Some(tail) = self.tail() else { return Ok(None) };
        if types.get(tail.source).is_none_or(|t| t.shape.lead != Lead::T) {
            return Ok(None);
        }
        let mut program = self.clone();
        let mut next = types.len() as u32;
        let mut add = |program: &mut Program, op: Op| {
            program.nodes.push(Node { op, layer: None });
            next += 1;
            ValueId(next - 1)
        };
        let mut value = tail.source;
        for node in tail.nodes {
            let mut op = self.nodes[node].op.clone();
            op.for_each_input(|v| *v = value);
            value = add(&mut program, op);
        }
        let mean = add(&mut program, Op::MeanPool { x: value });
        let last = add(&mut program, Op::LastPool { x: value });
        for (name, value) in [(output::MEAN, mean), (output::LAST, last)] {
            program.outputs.push(OutputDecl { name: name.to_owned(), value });
        }
        program.validate()?;
        Ok(Some(program))
    }

    fn tail(&self) -> Option<Tail> {
        let producers: Vec<usize> = (self.nodes.iter().enumerate())
            .flat_map(|(i, node)| std::iter::repeat_n(i, node.op.output_count()))
            .collect();
        let made_by = |value: ValueId| producers.get(value.index()).copied();
        let single = |op: &Op| (op.inputs().len() == 1 && op.output_count() == 1).then(|| op.inputs()[0]);
        let mut value = self.outputs.iter().find(|o| o.name == output::LOGITS)?.value;
        // Back over what is done to logits, to the head.
        loop {
            let op = &self.nodes[made_by(value)?].op;
            value = single(op)?;
            if matches!(op, Op::Linear { .. }) {
                break;
            }
        }
        let mut nodes = vec![];
        loop {
            let node = made_by(value)?;
            match &self.nodes[node].op {
                Op::GatherRows { x, rows } => {
                    let wanted = Op::Input { source: InputSource::LogitsRows };
                    if self.nodes[made_by(*rows)?].op != wanted {
                        return None;
                    }
                    nodes.reverse();
                    return Some(Tail { source: *x, nodes });
                }
                op => {
                    nodes.push(node);
                    value = single(op)?;
                }
            }
        }
    }
}
