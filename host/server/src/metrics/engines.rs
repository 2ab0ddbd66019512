use std::fmt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use rocmforge_engine::{BlockCounts, EngineStats};

use super::{ModelLabel, VllmLabel};
use crate::catalog::Models;
use crate::state::ServedModel;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct GroupLabel {
    model: String,
    group: u32,
}

/// Reads the engines' own numbers when asked.
#[derive(Debug)]
pub(super) struct Engines(pub(super) Arc<Models>);

impl Collector for Engines {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let stats: Vec<(String, EngineStats)> = self.0.all().iter().map(|m| (m.id.clone(), m.engine.stats())).collect();
        let mut gauge = |name: &str, help: &str, of: fn(&EngineStats) -> usize| {
            let values = stats.iter().map(|(id, s)| (ModelLabel { model: id.clone() }, count(of(s))));
            family(&mut encoder, name, help, values.map(|(label, n)| (label, ConstGauge::new(n))))
        };
        gauge("queue_length", "Requests that wait for their first step", |s| s.waiting)?;
        gauge("active_requests", "Requests that run", |s| s.running)?;
        gauge("paused_requests", "Requests whose clients do not read", |s| s.paused)?;
        let mut counter = |name: &str, help: &str, of: fn(&EngineStats) -> u64| {
            let values = stats.iter().map(|(id, s)| (ModelLabel { model: id.clone() }, of(s)));
            family(&mut encoder, name, help, values.map(|(label, n)| (label, ConstCounter::new(n))))
        };
        counter("engine_steps", "Steps run", |s| s.steps)?;
        counter("engine_failed_steps", "Steps that failed", |s| s.failed_steps)?;
        counter("preemptions", "Times that a request lost its blocks to others", |s| s.preemptions)?;
        counter("guessed_tokens", "Tokens computed on the guess that they come next", |s| s.guessed_tokens)?;
        counter("accepted_guessed_tokens", "Guessed tokens that came", |s| s.accepted_tokens)?;
        counter("device_draws", "Tokens drawn by the device, in place of logits copied to the host", |s| {
            s.device_draws
        })?;
        let mut blocks = |name: &str, help: &str, of: fn(&BlockCounts) -> usize| {
            let values = stats.iter().flat_map(|(id, s)| {
                let group =
                    |(g, counts)| (GroupLabel { model: id.clone(), group: g }, ConstGauge::new(count(of(counts))));
                (0u32..).zip(&s.blocks).map(group)
            });
            family(&mut encoder, name, help, values)
        };
        blocks("kv_blocks_used", "KV cache blocks held by requests", |b| b.used)?;
        blocks("kv_blocks_cached", "KV cache blocks kept for prompts that begin alike", |b| b.cached)?;
        blocks("kv_blocks_total", "KV cache blocks", |b| b.total)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FinishLabel {
    model_name: String,
    finished_reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CacheLabel {
    model_name: String,
    block_size: u64,
    num_gpu_blocks: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LoraLabel {
    model_name: String,
    max_lora: u32,
    running_lora_adapters: &'static str,
    waiting_lora_adapters: &'static str,
}

/// The same numbers under vLLM's names, which routers and autoscalers read.
#[derive(Debug)]
pub(super) struct VllmEngines(pub(super) Arc<Models>);

impl Collector for VllmEngines {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let models: Vec<(Arc<ServedModel>, EngineStats)> =
            self.0.all().into_iter().map(|m| (m.clone(), m.engine.stats())).collect();
        let label = |m: &ServedModel| VllmLabel { model_name: m.id.clone() };
        let mut gauge = |name: &str, help: &str, of: fn(&EngineStats) -> f64| {
            let values = models.iter().map(|(m, s)| (label(m), ConstGauge::new(of(s))));
            family(&mut encoder, name, help, values)
        };
        gauge("vllm:num_requests_running", "Requests that run", |s| s.running as f64)?;
        gauge("vllm:num_requests_waiting", "Requests that wait", |s| s.waiting as f64)?;
        gauge("vllm:kv_cache_usage_perc", "Part of the KV cache that requests hold, 0 to 1", |s| {
            cache_usage(&s.blocks)
        })?;
        let mut counter = |name: &str, help: &str, of: fn(&EngineStats) -> u64| {
            let values = models.iter().map(|(m, s)| (label(m), ConstCounter::new(of(s))));
            family(&mut encoder, name, help, values)
        };
        counter("vllm:num_preemptions", "Times that a request lost its blocks to others", |s| s.preemptions)?;
        counter("vllm:spec_decode_num_draft_tokens", "Tokens computed on the guess that they come next", |s| {
            s.guessed_tokens
        })?;
        counter("vllm:spec_decode_num_accepted_tokens", "Guessed tokens that came", |s| s.accepted_tokens)?;
        let ended = |s: &EngineStats| {
            [("stop", s.stopped), ("length", s.out_of_length), ("abort", s.cancelled), ("error", s.failed)]
        };
        let values = models.iter().flat_map(|(m, s)| {
            ended(s).map(|(finished_reason, n)| {
                (FinishLabel { model_name: m.id.clone(), finished_reason }, ConstCounter::new(n))
            })
        });
        family(&mut encoder, "vllm:request_success", "Answers by how they ended", values)?;
        let values = models.iter().map(|(m, s)| (cache_label(m, s), ConstGauge::new(1i64)));
        family(&mut encoder, "vllm:cache_config_info", "Size of the KV cache", values)?;
        // As vLLM reports it without adapters; routers complain where it is absent.
        let values = models.iter().map(|(m, _)| (lora_label(m), ConstGauge::new(seconds_since_epoch())));
        family(&mut encoder, "vllm:lora_requests_info", "LoRA adapters in use, and when that was so", values)
    }
}

/// Of the fullest group, which decides what else fits.
fn cache_usage(blocks: &[BlockCounts]) -> f64 {
    blocks.iter().filter(|b| b.total > 0).map(|b| b.used as f64 / b.total as f64).fold(0.0, f64::max)
}

fn cache_label(model: &ServedModel, stats: &EngineStats) -> CacheLabel {
    // Groups for sliding windows are smaller; the largest one tells how many tokens fit.
    let blocks = stats.blocks.iter().map(|b| b.total).max().unwrap_or(0);
    CacheLabel { model_name: model.id.clone(), block_size: model.block_size as u64, num_gpu_blocks: blocks as u64 }
}

fn lora_label(model: &ServedModel) -> LoraLabel {
    LoraLabel { model_name: model.id.clone(), max_lora: 0, running_lora_adapters: "", waiting_lora_adapters: "" }
}

fn seconds_since_epoch() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

fn count(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn family<L: EncodeLabelSet, M: EncodeMetric>(
    encoder: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    values: impl Iterator<Item = (L, M)>,
) -> Result<(), fmt::Error> {
    let mut values = values.peekable();
    let Some((_, first)) = values.peek() else { return Ok(()) };
    let mut metric = encoder.encode_descriptor(name, help, None, first.metric_type())?;
    values.try_for_each(|(label, value)| value.encode(metric.encode_family(&label)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fullest_group_is_what_the_cache_is_filled_to() {
        let check = |groups: &[(usize, usize)], expected: f64| {
            let group = |&(used, total)| BlockCounts { used, total, free: total - used, cached: 0 };
            assert_eq!(cache_usage(&groups.iter().map(group).collect::<Vec<_>>()), expected, "{groups:?}");
        };
        check(&[], 0.0);
        check(&[(0, 0)], 0.0);
        check(&[(1, 4)], 0.25);
        check(&[(1, 4), (3, 6)], 0.5);
        check(&[(4, 4), (0, 6)], 1.0);
    }
}
