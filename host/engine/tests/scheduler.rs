//! Scheduler and block manager under random load, with a model that notices every misplaced token.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use common::{SimulatedModel, VOCAB, argmax, class, expected_answer_changing_at, expected_logits_of_class};
use proptest::prelude::*;
use rocmforge_engine::{
    BlockManager, CacheGroup, EngineError, Lengths, Plan, RequestId, Runner, RunnerLimits, Scheduler, SchedulerConfig,
    Sequence, StepBatch,
};
use rocmforge_program::{OutputBuffer, output};

#[derive(Clone, Debug)]
struct Arrival {
    step: usize,
    prompt: Vec<u32>,
    answer: usize,
    prompt_logits: bool,
    cancel_after: Option<usize>,
    priority: i32,
    /// Tokens to guess per step, and which of them to guess right, by position.
    guess: (usize, u64),
    /// Steps after arrival at which it pauses, and for how long.
    pause: Option<(usize, usize)>,
}

#[derive(Clone, Debug)]
struct Load {
    windows: Vec<Option<u32>>,
    /// Where the model changes to another way of computing.
    lengths: Vec<u32>,
    block_size: usize,
    spare_blocks: usize,
    config: SchedulerConfig,
    prefix_caching: bool,
    arrivals: Vec<Arrival>,
    /// How long steps take, in turn, microseconds.
    durations: Vec<u16>,
}

fn arrivals() -> impl Strategy<Value = Vec<Arrival>> {
    // Few different tokens and a common beginning, so that prefixes are shared.
    let prompt = (0usize..20, prop::collection::vec(0u32..2, 1..20)).prop_map(|(common, own)| {
        let mut prompt: Vec<u32> = (0..common as u32).map(|i| i % 3).collect();
        prompt.extend(own);
        prompt
    });
    let rest = (
        1usize..16,
        prop::bool::weighted(0.2),
        prop::option::weighted(0.2, 0usize..30),
        prop_oneof![Just(0), -1..2],
        prop_oneof![Just((0, 0)), (1usize..5, any::<u64>())],
        prop::option::weighted(0.2, (0usize..10, 1usize..10)),
    );
    let arrival = (0usize..40, prompt, rest).prop_map(
        |(step, prompt, (answer, prompt_logits, cancel_after, priority, guess, pause))| Arrival {
            step,
            prompt,
            answer,
            prompt_logits,
            cancel_after,
            priority,
            guess,
            pause,
        },
    );
    prop::collection::vec(arrival, 1..16)
}

fn loads() -> impl Strategy<Value = Load> {
    let windows =
        prop::sample::select(vec![vec![None], vec![None, Some(5)], vec![Some(7)], vec![Some(3), None], vec![]]);
    let lengths = prop::sample::select(vec![vec![], vec![9], vec![7, 23]]);
    let slowdown = prop::option::of(1.01f64..4.0);
    let config = (1usize..6, 0usize..12, 1usize..8, slowdown).prop_map(
        |(max_sequences, more, max_prompt_logits, max_slowdown)| SchedulerConfig {
            max_tokens: max_sequences + more,
            max_sequences,
            max_prompt_logits,
            max_slowdown,
        },
    );
    let durations = prop::collection::vec(any::<u16>(), 1..8);
    (windows, lengths, 1usize..6, 0usize..20, config, any::<bool>(), arrivals(), durations).prop_map(
        |(windows, lengths, block_size, spare_blocks, config, prefix_caching, arrivals, durations)| Load {
            windows,
            lengths,
            block_size,
            spare_blocks,
            config,
            prefix_caching,
            arrivals,
            durations,
        },
    )
}

struct Simulation {
    scheduler: Scheduler,
    model: SimulatedModel,
    batch: StepBatch,
    logits: Vec<f32>,
    answers: BTreeMap<RequestId, Vec<u32>>,
    /// Positions of the prompt whose logits were delivered.
    scored: BTreeMap<RequestId, Vec<usize>>,
    paused: BTreeSet<RequestId>,
    /// Whether the step before was one without the first sequence.
    probes: usize,
    steps: usize,
    preemptions: usize,
    reused: usize,
    guessed: usize,
}

impl Simulation {
    fn new(load: &Load) -> Simulation {
        let longest = load.arrivals.iter().map(|a| a.prompt.len() + a.answer).max().unwrap();
        let blocks = longest.div_ceil(load.block_size) + load.spare_blocks;
        let group = |w: &Option<u32>| CacheGroup { blocks, window: w.map(|w| w as usize) };
        let groups: Vec<_> = load.windows.iter().map(group).collect();
        let manager = BlockManager::new(load.block_size, &groups, load.prefix_caching).unwrap();
        let SchedulerConfig { max_tokens, max_sequences, .. } = load.config;
        let limits = RunnerLimits { max_tokens, max_sequences, block_size: load.block_size };
        let mut model = SimulatedModel::new(&load.windows, limits, 1000).changing_at(&load.lengths);
        let lengths = Lengths::of(model.program()).unwrap();
        model.allocate_cache(&vec![blocks as u64; groups.len()]).unwrap();
        Simulation {
            scheduler: Scheduler::new(load.config, manager).unwrap().with_lengths(lengths.clone()),
            model,
            batch: StepBatch::new(groups.len(), load.block_size).with_lengths(lengths),
            logits: Vec::new(),
            answers: BTreeMap::new(),
            scored: BTreeMap::new(),
            paused: BTreeSet::new(),
            probes: 0,
            steps: 0,
            preemptions: 0,
            reused: 0,
            guessed: 0,
        }
    }

    /// Guesses, some of them right, for sequences that generate.
    fn propose(&mut self, load: &Load) {
        for id in self.scheduler.running().collect::<Vec<_>>() {
            let Arrival { guess: (most, right), answer, .. } = load.arrivals[id.0 as usize];
            let sequence = self.scheduler.sequence(id).unwrap();
            let most = most.min((answer - sequence.generated().len()).saturating_sub(1));
            let mut guess = expected_answer_changing_at(&load.windows, &load.lengths, sequence.tokens(), most);
            let first = sequence.tokens().len();
            let wrong = guess.iter_mut().enumerate().filter(|(i, _)| right >> ((first + i) % 64) & 1 == 0);
            wrong.for_each(|(_, token)| *token = (*token + 1) % VOCAB as u32);
            self.scheduler.propose(id, guess);
        }
    }

    fn step(&mut self, load: &Load) -> Result<(), TestCaseError> {
        self.propose(load);
        let plan = self.scheduler.schedule();
        self.scheduler.audit().map_err(TestCaseError::fail)?;
        check_plan(&plan, &load.config)?;
        self.preemptions += plan.preempted.len();
        // Whoever generates is in every step; the first one advances in any case, but for a step of others alone that
        // is measured.
        let running: Vec<RequestId> = self.scheduler.running().collect();
        prop_assert!(running.len() <= load.config.max_sequences);
        for (i, id) in running.iter().enumerate() {
            let sequence = self.scheduler.sequence(*id).unwrap();
            let generating = !sequence.generated().is_empty() && sequence.computed() + 1 == sequence.tokens().len();
            let advances = plan.slices.iter().any(|s| s.id == *id);
            let measured = load.config.max_slowdown.is_some() && plan.slices.iter().all(|s| s.generates);
            let measured = measured && !plan.slices.is_empty() && self.probes == 0;
            prop_assert!(advances || (!generating && (i > 0 || measured)), "{:?} starves", id);
            self.probes = usize::from(!advances && i == 0);
        }
        let rank = |id: &RequestId| (load.arrivals[id.0 as usize].priority, *id);
        for id in plan.preempted.iter().filter(|id| !self.paused.contains(id)) {
            prop_assert!(running.iter().all(|r| rank(r) < rank(id)), "{:?} gave way to a later one", id);
        }
        let first = self.scheduler.first_unpaused();
        prop_assert!(plan.outranked.iter().all(|id| first.is_some_and(|f| rank(&f).0 < rank(id).0)), "{:?}", plan);
        prop_assert!(!running.is_empty() || self.scheduler.first_unpaused().is_none(), "nothing runs");
        self.batch.fill(&plan, &self.scheduler);
        let rows = self.batch.rows().to_vec();
        self.logits.resize(rows.len() * VOCAB, 0.0);
        if !plan.slices.is_empty() {
            let model = &mut self.model;
            let outcome = self.batch.with_step(|step| model.submit(step));
            outcome.map_err(|e| TestCaseError::fail(e.to_string()))?;
            self.model.wait(&mut [OutputBuffer { name: output::LOGITS, data: &mut self.logits }]).unwrap();
        }
        let took = load.durations[self.steps % load.durations.len()];
        self.steps += 1;
        self.scheduler.observe(&plan, Duration::from_micros(took.into()));
        self.scheduler.commit(&plan);
        self.scheduler.audit().map_err(TestCaseError::fail)?;
        // Rows after a guess that did not come true say nothing.
        let mut wrong = None;
        for (row, logits) in rows.iter().zip(self.logits.chunks(VOCAB)) {
            if wrong == Some(row.id) {
                continue;
            }
            let tokens = self.scheduler.sequence(row.id).unwrap().tokens();
            let class = class(&load.lengths, tokens.len());
            prop_assert_eq!(logits, expected_logits_of_class(&load.windows, &tokens[..=row.position], class));
            if !row.samples {
                self.scored.entry(row.id).or_default().push(row.position);
                continue;
            }
            let token = argmax(logits);
            let came = row.guess == Some(token);
            wrong = (!came).then_some(row.id);
            self.guessed += usize::from(came);
            self.scheduler.append(row.id, &[token], usize::from(came));
            self.scheduler.audit().map_err(TestCaseError::fail)?;
            let wanted = load.arrivals[row.id.0 as usize].answer;
            let sequence = self.scheduler.sequence(row.id).unwrap();
            self.answers.insert(row.id, sequence.generated().to_vec());
            if sequence.generated().len() == wanted {
                self.reused += self.scheduler.remove(row.id).unwrap().reused();
            }
        }
        Ok(())
    }
}

fn check_plan(plan: &Plan, config: &SchedulerConfig) -> Result<(), TestCaseError> {
    prop_assert!(plan.slices.iter().map(|s| s.len).sum::<usize>() <= config.max_tokens);
    prop_assert!(plan.slices.len() <= config.max_sequences);
    let mut ids: Vec<_> = plan.slices.iter().map(|s| s.id).collect();
    ids.sort();
    ids.dedup();
    prop_assert_eq!(ids.len(), plan.slices.len());
    prop_assert!(plan.slices.iter().all(|s| s.len > 0 && !plan.preempted.contains(&s.id)));
    Ok(())
}

/// Runs a load to its end and returns how often a request was preempted, and tokens that were reused.
fn run(load: &Load) -> Result<(usize, usize), TestCaseError> {
    let mut simulation = Simulation::new(load);
    let work: usize = load.arrivals.iter().map(|a| a.prompt.len() + a.answer).sum();
    // Preemption repeats work, but the first one advances, by one token at least, in one step of two.
    let most_steps = 100 + 40 * work;
    for step in 0.. {
        prop_assert!(step < most_steps, "not done after {} steps", step);
        for (i, arrival) in load.arrivals.iter().enumerate() {
            let id = RequestId(i as u64);
            if step == arrival.step {
                let sequence = Sequence::new(arrival.prompt.clone(), String::new()).with_priority(arrival.priority);
                let sequence = if arrival.prompt_logits { sequence.with_prompt_logits() } else { sequence };
                prop_assert_eq!(simulation.scheduler.add(id, sequence), Ok(()));
            }
            if arrival.cancel_after.is_some_and(|n| step == arrival.step + n) {
                simulation.scheduler.remove(id);
                prop_assert!(simulation.scheduler.audit().is_ok());
            }
            match arrival.pause {
                Some((after, _)) if step == arrival.step + after => {
                    simulation.paused.insert(id);
                    simulation.scheduler.pause(id);
                }
                Some((after, long)) if step == arrival.step + after + long => {
                    simulation.paused.remove(&id);
                    simulation.scheduler.resume(id);
                }
                _ => {}
            }
        }
        simulation.step(load)?;
        let all_came = load.arrivals.iter().all(|a| a.step <= step);
        if all_came && simulation.scheduler.queue_lengths() == (0, 0, 0) {
            break;
        }
    }
    for count in simulation.scheduler.block_counts() {
        prop_assert_eq!(count.used, 0, "blocks are held after the last request");
        prop_assert_eq!(count.free + count.cached, count.total);
    }
    for (i, arrival) in load.arrivals.iter().enumerate() {
        let found = simulation.answers.remove(&RequestId(i as u64)).unwrap_or_default();
        let expected = expected_answer_changing_at(&load.windows, &load.lengths, &arrival.prompt, found.len());
        prop_assert_eq!(&found, &expected, "request {}", i);
        prop_assert!(found.len() == arrival.answer || arrival.cancel_after.is_some(), "request {} is not done", i);
        let scored = simulation.scored.remove(&RequestId(i as u64)).unwrap_or_default();
        let wanted = if arrival.prompt_logits { arrival.prompt.len() - 1 } else { 0 };
        prop_assert!(scored.iter().copied().eq(0..scored.len()), "prompt logits once and in order: {:?}", scored);
        prop_assert!(scored.len() == wanted || arrival.cancel_after.is_some());
    }
    Ok((simulation.preemptions, simulation.reused))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn every_request_ends_with_the_answer_it_would_get_alone(load in loads()) {
        run(&load)?;
    }
}

fn load(prompts: &[usize], answer: usize, spare_blocks: usize) -> Load {
    let arrival = |&n: &usize| Arrival {
        step: 0,
        prompt: (0..n as u32).map(|i| (i + n as u32) % 7).collect(),
        answer,
        prompt_logits: false,
        cancel_after: None,
        priority: 0,
        guess: (0, 0),
        pause: None,
    };
    Load {
        windows: vec![None],
        lengths: vec![],
        block_size: 4,
        spare_blocks,
        config: SchedulerConfig { max_tokens: 16, max_sequences: 4, max_prompt_logits: 4, max_slowdown: None },
        prefix_caching: true,
        arrivals: prompts.iter().map(arrival).collect(),
        durations: vec![1],
    }
}

#[test]
fn right_guesses_save_steps_and_wrong_ones_do_not_change_the_answer() {
    let check = |right: u64, steps: std::ops::RangeInclusive<usize>| {
        let mut load = load(&[9], 31, 40);
        load.arrivals[0].guess = (4, right);
        let mut simulation = Simulation::new(&load);
        let prompt = load.arrivals[0].prompt.clone();
        simulation.scheduler.add(RequestId(0), Sequence::new(prompt.clone(), String::new())).unwrap();
        while simulation.scheduler.queue_lengths() != (0, 0, 0) {
            simulation.step(&load).unwrap();
        }
        assert_eq!(
            simulation.answers[&RequestId(0)],
            expected_answer_changing_at(&load.windows, &load.lengths, &prompt, 31)
        );
        assert!(steps.contains(&simulation.steps), "{} steps", simulation.steps);
        assert_eq!(simulation.guessed, 31 - simulation.steps);
    };
    check(u64::MAX, 7..=7); // one token from the prompt's step, then five from each
    check(0, 31..=31);
    check(0x5555_5555_5555_5555, 16..=31);
}

#[test]
fn scarce_blocks_lead_to_preemption_and_plenty_do_not() {
    let check = |spare: usize, expected: bool| {
        let (preemptions, _) = run(&load(&[9, 10, 11], 20, spare)).unwrap();
        assert_eq!(preemptions > 0, expected, "{spare} spare blocks: {preemptions} preemptions");
    };
    check(2, true);
    check(40, false);
}

#[test]
fn a_prompt_seen_before_is_not_computed_again() {
    let check = |second: usize, salt: &str, expected: usize| {
        let load = load(&[30], 2, 20);
        let mut simulation = Simulation::new(&load);
        let prompt = &load.arrivals[0].prompt;
        simulation.scheduler.add(RequestId(0), Sequence::new(prompt.clone(), String::new())).unwrap();
        while simulation.scheduler.queue_lengths() != (0, 0, 0) {
            simulation.step(&load).unwrap();
        }
        let again = Sequence::new(prompt[..second].to_vec(), salt.into());
        simulation.scheduler.add(RequestId(1), again).unwrap();
        let plan = simulation.scheduler.schedule();
        assert_eq!(plan.slices[0].start, expected, "{second} tokens, salt '{salt}'");
    };
    check(30, "", 28);
    check(29, "", 28);
    check(28, "", 24); // The last token is computed for its logits.
    check(3, "", 0);
    check(30, "another owner", 0);
}

/// A sequence that grows past the length starts over; what the cache holds of shorter ones is not taken for it, nor the
/// other way round.
#[test]
fn a_length_at_which_the_model_changes_parts_what_is_computed() {
    let mut load = load(&[18], 6, 20);
    load.lengths = vec![20];
    let mut simulation = Simulation::new(&load);
    let prompt = load.arrivals[0].prompt.clone();
    simulation.scheduler.add(RequestId(0), Sequence::new(prompt.clone(), String::new())).unwrap();
    for (computed, generated) in [(16, 0), (18, 1), (19, 2), (0, 3), (16, 3), (21, 4), (22, 5)] {
        simulation.step(&load).unwrap();
        let sequence = simulation.scheduler.sequence(RequestId(0)).unwrap();
        // The third token makes 21 of them, and nothing of the cache is of use any more.
        assert_eq!((sequence.computed(), sequence.generated().len()), (computed, generated));
    }
    simulation.step(&load).unwrap();
    let mut starts = |id: u64, prompt: Vec<u32>| {
        simulation.scheduler.add(RequestId(id), Sequence::new(prompt, String::new())).unwrap();
        let start = simulation.scheduler.schedule().slices[0].start;
        simulation.scheduler.remove(RequestId(id));
        start
    };
    let long = [&prompt[..], &simulation.answers[&RequestId(0)]].concat();
    assert_eq!(starts(1, prompt), 16, "a short one finds the short one's blocks");
    assert_eq!(starts(2, long[..24].to_vec()), 20, "a long one finds the long one's");
    assert_eq!(starts(3, long[..20].to_vec()), 16, "and a short one not those beyond");
}

#[test]
fn streams_that_generate_advance_while_a_long_prompt_is_computed() {
    let load = load(&[3, 200], 50, 40);
    let mut simulation = Simulation::new(&load);
    let add = |s: &mut Simulation, i: usize| {
        s.scheduler.add(RequestId(i as u64), Sequence::new(load.arrivals[i].prompt.clone(), String::new())).unwrap();
    };
    add(&mut simulation, 0);
    simulation.step(&load).unwrap();
    add(&mut simulation, 1);
    for step in 2..10 {
        simulation.step(&load).unwrap();
        assert_eq!(simulation.scheduler.sequence(RequestId(0)).unwrap().generated().len(), step);
        assert_eq!(simulation.scheduler.sequence(RequestId(1)).unwrap().computed(), (step - 1) * 15);
    }
}

#[test]
fn a_smaller_priority_number_takes_the_place_of_larger_ones_that_run() {
    let check = |priorities: [i32; 5], expected: &[u64]| {
        let mut load = load(&[9, 10, 11, 12, 13], 20, 40);
        let mut simulation = Simulation::new(&load);
        load.arrivals.iter_mut().zip(priorities).for_each(|(a, p)| a.priority = p);
        for (i, arrival) in load.arrivals.iter().enumerate() {
            let sequence = Sequence::new(arrival.prompt.clone(), String::new()).with_priority(arrival.priority);
            simulation.scheduler.add(RequestId(i as u64), sequence).unwrap();
            simulation.step(&load).unwrap();
        }
        (0..5).for_each(|_| simulation.step(&load).unwrap());
        let running: Vec<u64> = simulation.scheduler.running().map(|id| id.0).collect();
        assert_eq!(running, expected, "{priorities:?}");
    };
    check([0, 0, 0, 0, 0], &[0, 1, 2, 3]);
    check([0, 0, 0, 0, -1], &[4, 0, 1, 2]);
    check([0, 5, 0, 0, 1], &[0, 2, 3, 4]);
    check([0, 0, 0, 0, 1], &[0, 1, 2, 3]);
}

#[test]
fn prompts_leave_streams_the_time_that_the_slowdown_says() {
    let mut load = load(&[3, 400], 300, 40);
    load.config.max_tokens = 64;
    load.config.max_slowdown = Some(2.0);
    let mut simulation = Simulation::new(&load);
    let mut longest = 0;
    for step in 0..80 {
        if let Some(arrival) = load.arrivals.get(step / 40).filter(|_| step % 40 == 0) {
            let sequence = Sequence::new(arrival.prompt.clone(), String::new());
            simulation.scheduler.add(RequestId(step as u64 / 40), sequence).unwrap();
        }
        let plan = simulation.scheduler.schedule();
        // A step takes 10 ms, and 1 ms for each of its tokens.
        let tokens: u32 = plan.slices.iter().map(|s| s.len as u32).sum();
        simulation.scheduler.observe(&plan, Duration::from_millis(10) + tokens * Duration::from_millis(1));
        longest = longest.max(if step > 50 { tokens } else { 0 });
        simulation.scheduler.commit(&plan);
        plan.slices.iter().filter(|s| s.samples).for_each(|s| simulation.scheduler.append(s.id, &[1], 0));
    }
    assert!((8..=13).contains(&longest), "{longest} tokens in a step; 12 make 22 ms, twice 11 ms");
}

#[test]
fn a_window_holds_only_the_blocks_that_it_can_see() {
    let mut load = load(&[100], 40, 0);
    load.windows = vec![Some(8)];
    let mut simulation = Simulation::new(&load);
    let prompt = load.arrivals[0].prompt.clone();
    simulation.scheduler.add(RequestId(0), Sequence::new(prompt, String::new())).unwrap();
    let mut most = 0;
    while simulation.scheduler.queue_lengths() != (0, 0, 0) {
        simulation.step(&load).unwrap();
        most = most.max(simulation.scheduler.block_counts()[0].used);
    }
    assert!((2..=3).contains(&most), "{most} blocks of 4 for a window of 8 after a step");
}

#[test]
fn what_can_never_fit_is_refused_with_the_numbers() {
    let blocks = BlockManager::new(4, &[CacheGroup { blocks: 5, window: None }], true).unwrap();
    let config = SchedulerConfig { max_tokens: 8, max_sequences: 2, max_prompt_logits: 4, max_slowdown: None };
    let mut scheduler = Scheduler::new(config, blocks).unwrap();
    let mut add = |n: usize| scheduler.add(RequestId(n as u64), Sequence::new(vec![1; n], String::new()));
    assert_eq!(add(20), Ok(()));
    assert_eq!(add(21), Err(EngineError::CacheTooSmall { prompt: 21, capacity: 20 }));
    assert!(matches!(add(0), Err(EngineError::Request { field: "prompt", .. })));
}
