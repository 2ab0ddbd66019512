use crate::error::ProgramError;
use crate::program::Program;

/// In a block table: no block, because the window has passed it or the sequence has not reached it. Never read.
pub const NO_BLOCK: u32 = u32::MAX;

/// Block table and slots of one cache group.
#[derive(Clone, Copy, Debug, Default)]
pub struct GroupTables<'a> {
    /// `[S, max_blocks]`, row-major: the block that holds positions `i * block_size ..` of a sequence, or [`NO_BLOCK`].
    pub block_tables: &'a [u32],
    /// Columns of `block_tables`.
    pub max_blocks: usize,
    /// `[T]`: where the key and value of each token go, `block * block_size + offset`.
    pub slot_mapping: &'a [u32],
}

/// A value supplied by the host.
#[derive(Clone, Copy, Debug)]
pub struct NamedInput<'a> {
    /// The name in [`InputSource::Named`](crate::InputSource::Named).
    pub name: &'a str,
    /// Elements, row-major.
    pub data: &'a [f32],
}

/// Where an output goes.
#[derive(Debug)]
pub struct OutputBuffer<'a> {
    /// The output's name.
    pub name: &'a str,
    /// Room for exactly its elements, row-major.
    pub data: &'a mut [f32],
}

/// One call of an executable: any mix of prefill and decode tokens, in compressed-row layout (names as in vLLM).
#[derive(Clone, Copy, Debug, Default)]
pub struct Step<'a> {
    /// `[T]`: tokens, sequence by sequence.
    pub token_ids: &'a [u32],
    /// `[T]`: position of each token in its sequence.
    pub positions: &'a [u32],
    /// `[S + 1]`: where each sequence starts in the token arrays; first 0, last T, strictly increasing.
    pub query_start: &'a [u32],
    /// `[S]`: tokens of each sequence in the cache once this step is done.
    pub context_lens: &'a [u32],
    /// One entry per cache group.
    pub groups: &'a [GroupTables<'a>],
    /// `[L]`: token rows that need logits.
    pub logits_rows: &'a [u32],
    /// Named inputs.
    pub inputs: &'a [NamedInput<'a>],
}

/// What the indices of a step must stay below.
#[derive(Clone, Copy, Debug)]
pub struct StepLimits<'a> {
    /// Rows of the embedding table.
    pub vocab_size: usize,
    /// Most tokens in one step.
    pub max_tokens: usize,
    /// Most sequences in one step.
    pub max_sequences: usize,
    /// Tokens per block.
    pub block_size: usize,
    /// Blocks per cache group.
    pub num_blocks: &'a [usize],
}

impl Step<'_> {
    /// T: tokens in the step.
    pub fn tokens(&self) -> usize {
        self.token_ids.len()
    }

    /// S: sequences in the step.
    pub fn sequences(&self) -> usize {
        self.context_lens.len()
    }

    /// Checks every index, so that a backend can trust them.
    ///
    /// # Errors
    /// The first rule that does not hold.
    pub fn check(&self, program: &Program, limits: &StepLimits<'_>) -> Result<(), ProgramError> {
        let (t, s) = (self.tokens(), self.sequences());
        let fits = |place: &str, n: usize, most: usize| match n <= most {
            true => Ok(()),
            false => Err(ProgramError::step(place, format!("at most {most}"), n)),
        };
        fits("tokens", t, limits.max_tokens)?;
        fits("sequences", s, limits.max_sequences)?;
        exact("positions", self.positions.len(), t)?;
        exact("query_start", self.query_start.len(), s + 1)?;
        let increasing = self.query_start.windows(2).all(|w| w[0] < w[1]);
        let ends = self.query_start.first() == Some(&0) && self.query_start.last() == Some(&(t as u32));
        if !increasing || !ends {
            return Err(ProgramError::step("query_start", format!("0 < .. < {t}"), format!("{:?}", self.query_start)));
        }
        if let Some(id) = self.token_ids.iter().find(|&&id| id as usize >= limits.vocab_size) {
            return Err(ProgramError::step("token_ids", format!("ids below {}", limits.vocab_size), id));
        }
        if let Some(row) = self.logits_rows.iter().find(|&&r| r as usize >= t) {
            return Err(ProgramError::step("logits_rows", format!("rows below {t}"), row));
        }
        for i in 0..s {
            let rows = self.query_start[i] as usize..self.query_start[i + 1] as usize;
            let positions = &self.positions[rows.clone()];
            let first = self.context_lens[i] as i64 - rows.len() as i64;
            if first < 0 || positions.iter().enumerate().any(|(k, &p)| i64::from(p) != first + k as i64) {
                return Err(ProgramError::step(
                    format!("positions of sequence {i}"),
                    format!("{} consecutive, ending at {}", rows.len(), self.context_lens[i] as i64 - 1),
                    format!("{positions:?}"),
                ));
            }
        }
        exact("groups", self.groups.len(), program.group_count())?;
        for (g, tables) in self.groups.iter().enumerate() {
            self.check_group(g, tables, program.group_window(g), limits)?;
        }
        Ok(())
    }

    fn check_group(
        &self,
        g: usize,
        tables: &GroupTables<'_>,
        window: Option<u32>,
        limits: &StepLimits<'_>,
    ) -> Result<(), ProgramError> {
        let place = |what: &str| format!("{what} of cache group {g}");
        let blocks = limits.num_blocks.get(g).copied().unwrap_or(0);
        let size = limits.block_size.max(1);
        exact(&place("slot_mapping"), tables.slot_mapping.len(), self.tokens())?;
        exact(&place("block_tables"), tables.block_tables.len(), self.sequences().saturating_mul(tables.max_blocks))?;
        for (i, &context) in self.context_lens.iter().enumerate() {
            let row = &tables.block_tables[i * tables.max_blocks..(i + 1) * tables.max_blocks];
            let context = context as usize;
            let first_query = self.positions[self.query_start[i] as usize] as usize;
            let oldest = window.map_or(0, |w| (first_query + 1).saturating_sub(w as usize));
            if context.div_ceil(size) > row.len() {
                return Err(ProgramError::step(place("max_blocks"), context.div_ceil(size), row.len()));
            }
            for (b, &block) in row.iter().enumerate().take(context.div_ceil(size)).skip(oldest / size) {
                if block as usize >= blocks {
                    return Err(ProgramError::step(
                        format!("block {b} of sequence {i} in cache group {g}"),
                        format!("a block below {blocks}"),
                        block,
                    ));
                }
            }
            for t in self.query_start[i] as usize..self.query_start[i + 1] as usize {
                let position = self.positions[t] as usize;
                let slot = row[position / size] as usize * size + position % size;
                if tables.slot_mapping[t] as usize != slot {
                    return Err(ProgramError::step(
                        format!("slot of token {t} in cache group {g}"),
                        slot,
                        tables.slot_mapping[t],
                    ));
                }
            }
        }
        Ok(())
    }
}

fn exact(place: &str, found: usize, expected: usize) -> Result<(), ProgramError> {
    if found == expected {
        return Ok(());
    }
    Err(ProgramError::step(place, format!("{expected} entries"), found))
}
