//! How many threads compute unless somebody says so.

use std::collections::BTreeSet;
use std::path::Path;

/// As many as affinity and the control group's quota leave, but one per physical core, as two on a core share its
/// arithmetic and its caches, and those of one NUMA node, as weights lie in the memory of one.
pub(crate) fn default_threads() -> u32 {
    let most = std::thread::available_parallelism().map_or(1, |n| n.get());
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).map(list);
    let cores = allowed.and_then(|allowed| cores(Path::new("/sys/devices/system"), &allowed));
    cores.map_or(most, |cores| cores.clamp(1, most)) as u32
}

/// Numbers as in `0-3,8`.
fn list(text: &str) -> BTreeSet<usize> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        Some(first..=last.min(first + 8192))
    };
    text.split(',').filter_map(range).flatten().collect()
}

/// Physical cores among the processors allowed, of the NUMA node that has most of them; `None`: the system does not say.
fn cores(system: &Path, allowed: &BTreeSet<usize>) -> Option<usize> {
    let nodes = std::fs::read_dir(system.join("node")).into_iter().flatten().flatten();
    let nodes = nodes.filter_map(|entry| std::fs::read_to_string(entry.path().join("cpulist")).ok());
    let mut nodes: Vec<BTreeSet<usize>> = nodes.map(|text| list(&text)).collect();
    if nodes.is_empty() {
        nodes.push(allowed.clone());
    }
    let of_node = |node: &BTreeSet<usize>| {
        let core = |cpu: &usize| {
            let file = system.join(format!("cpu/cpu{cpu}/topology/thread_siblings_list"));
            list(&std::fs::read_to_string(file).ok()?).first().copied()
        };
        let cores: Option<BTreeSet<usize>> = node.intersection(allowed).map(core).collect();
        Some(cores?.len())
    };
    let counts: Option<Vec<usize>> = nodes.iter().map(of_node).collect();
    counts?.into_iter().max().filter(|&n| n > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_processors() {
        let check =
            |text, expected: &[usize]| assert_eq!(list(text).into_iter().collect::<Vec<_>>(), expected, "{text}");
        check("0-3,8\n", &[0, 1, 2, 3, 8]);
        check("5", &[5]);
        check("", &[]);
        check("x-2,7", &[7]);
    }

    #[test]
    fn threads_of_a_core_count_once_and_nodes_one_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let write = |path: String, text: String| {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        assert_eq!(cores(folder.path(), &list("0-3")), None);
        // Two nodes of three cores with two threads each.
        for cpu in 0..12 {
            let siblings = format!("{},{}\n", cpu / 2 * 2, cpu / 2 * 2 + 1);
            write(format!("cpu/cpu{cpu}/topology/thread_siblings_list"), siblings);
        }
        assert_eq!(cores(folder.path(), &list("0-11")), Some(6));
        write("node/node0/cpulist".into(), "0-5\n".into());
        write("node/node1/cpulist".into(), "6-11\n".into());
        let check = |allowed, expected| assert_eq!(cores(folder.path(), &list(allowed)), Some(expected), "{allowed}");
        check("0-11", 3);
        check("0-1,6-9", 2);
        check("4", 1);
    }
}
