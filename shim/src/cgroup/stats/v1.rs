//! Statistics of cgroup v1: `io.containerd.cgroups.v1.Metrics`.

use std::path::Path;

use containerd_shim_protos::cgroups::metrics::{
    BlkIOEntry, BlkIOStat, CPUUsage, HugetlbStat, MemoryEntry, MemoryOomControl, MemoryStat,
    Metrics, PidsStat, Throttle,
};
use containerd_shim_protos::protobuf::MessageField;

use super::files::{Table, huge_page_sizes, number, text};
use crate::cgroup::Cgroup;

/// The unit of `cpuacct.stat` (USER_HZ), which is the same on all architectures of this shim.
const TICKS_A_SECOND: u64 = 100;

/// Reads the statistics of a cgroup.
pub(super) fn read(cgroup: &Cgroup) -> Metrics {
    let mut metrics = Metrics::default();
    if let Some(directory) = cgroup.controller("pids") {
        metrics.pids = MessageField::some(pids(directory));
    }
    if let Some(directory) = cgroup.controller("cpuacct") {
        metrics.cpu.mut_or_insert_default().usage = MessageField::some(cpu_usage(directory));
    }
    if let Some(directory) = cgroup.controller("cpu") {
        metrics.cpu.mut_or_insert_default().throttling = MessageField::some(throttling(directory));
    }
    if let Some(directory) = cgroup.controller("memory") {
        metrics.memory = MessageField::some(memory(directory));
        let control = Table::read(directory, "memory.oom_control");
        metrics.memory_oom_control = MessageField::some(MemoryOomControl {
            oom_kill_disable: control.get("oom_kill_disable"),
            under_oom: control.get("under_oom"),
            oom_kill: control.get("oom_kill"),
            ..MemoryOomControl::default()
        });
    }
    if let Some(directory) = cgroup.controller("blkio") {
        metrics.blkio = MessageField::some(block_io(directory));
    }
    if let Some(directory) = cgroup.controller("hugetlb") {
        metrics.hugetlb = huge_pages(directory);
    }
    metrics
}

fn pids(directory: &Path) -> PidsStat {
    PidsStat {
        current: number(directory, "pids.current"),
        // 0 stands for no limit.
        limit: match number(directory, "pids.max") {
            u64::MAX => 0,
            limit => limit,
        },
        ..PidsStat::default()
    }
}

fn cpu_usage(directory: &Path) -> CPUUsage {
    const TICK: u64 = 1_000_000_000 / TICKS_A_SECOND;
    let stat = Table::read(directory, "cpuacct.stat");
    let per_cpu = text(directory, "cpuacct.usage_percpu");
    CPUUsage {
        total: number(directory, "cpuacct.usage"),
        kernel: stat.get("system").saturating_mul(TICK),
        user: stat.get("user").saturating_mul(TICK),
        per_cpu: per_cpu
            .split_whitespace()
            .map(super::files::parse)
            .collect(),
        ..CPUUsage::default()
    }
}

fn throttling(directory: &Path) -> Throttle {
    let stat = Table::read(directory, "cpu.stat");
    Throttle {
        periods: stat.get("nr_periods"),
        throttled_periods: stat.get("nr_throttled"),
        throttled_time: stat.get("throttled_time"),
        ..Throttle::default()
    }
}

fn memory(directory: &Path) -> MemoryStat {
    let stat = Table::read(directory, "memory.stat");
    let entry = |name: &str| {
        let file = |value: &str| number(directory, &format!("memory.{name}{value}"));
        MessageField::some(MemoryEntry {
            limit: file("limit_in_bytes"),
            usage: file("usage_in_bytes"),
            max: file("max_usage_in_bytes"),
            failcnt: file("failcnt"),
            ..MemoryEntry::default()
        })
    };
    MemoryStat {
        cache: stat.get("cache"),
        rss: stat.get("rss"),
        rss_huge: stat.get("rss_huge"),
        mapped_file: stat.get("mapped_file"),
        dirty: stat.get("dirty"),
        writeback: stat.get("writeback"),
        pg_pg_in: stat.get("pgpgin"),
        pg_pg_out: stat.get("pgpgout"),
        pg_fault: stat.get("pgfault"),
        pg_maj_fault: stat.get("pgmajfault"),
        inactive_anon: stat.get("inactive_anon"),
        active_anon: stat.get("active_anon"),
        inactive_file: stat.get("inactive_file"),
        active_file: stat.get("active_file"),
        unevictable: stat.get("unevictable"),
        hierarchical_memory_limit: stat.get("hierarchical_memory_limit"),
        hierarchical_swap_limit: stat.get("hierarchical_memsw_limit"),
        total_cache: stat.get("total_cache"),
        total_rss: stat.get("total_rss"),
        total_rss_huge: stat.get("total_rss_huge"),
        total_mapped_file: stat.get("total_mapped_file"),
        total_dirty: stat.get("total_dirty"),
        total_writeback: stat.get("total_writeback"),
        total_pg_pg_in: stat.get("total_pgpgin"),
        total_pg_pg_out: stat.get("total_pgpgout"),
        total_pg_fault: stat.get("total_pgfault"),
        total_pg_maj_fault: stat.get("total_pgmajfault"),
        total_inactive_anon: stat.get("total_inactive_anon"),
        total_active_anon: stat.get("total_active_anon"),
        total_inactive_file: stat.get("total_inactive_file"),
        total_active_file: stat.get("total_active_file"),
        total_unevictable: stat.get("total_unevictable"),
        usage: entry(""),
        swap: entry("memsw."),
        kernel: entry("kmem."),
        kernel_tcp: entry("kmem.tcp."),
        ..MemoryStat::default()
    }
}

fn block_io(directory: &Path) -> BlkIOStat {
    // The throttling layer counts with every scheduler; the other files exist with their own
    // scheduler only.
    let entries = |name: &str| {
        let files = [
            format!("blkio.throttle.{name}_recursive"),
            format!("blkio.bfq.{name}_recursive"),
            format!("blkio.{name}_recursive"),
        ];
        let texts = files.iter().map(|file| text(directory, file));
        let found = texts.map(|text| block_entries(&text));
        found
            .into_iter()
            .find(|list| !list.is_empty())
            .unwrap_or_default()
    };
    BlkIOStat {
        io_service_bytes_recursive: entries("io_service_bytes"),
        io_serviced_recursive: entries("io_serviced"),
        io_queued_recursive: entries("io_queued"),
        io_service_time_recursive: entries("io_service_time"),
        io_wait_time_recursive: entries("io_wait_time"),
        io_merged_recursive: entries("io_merged"),
        io_time_recursive: entries("time"),
        sectors_recursive: entries("sectors"),
        ..BlkIOStat::default()
    }
}

/// Parses lines `8:0 Read 4096` and `8:0 4096`; a line `Total` is skipped.
fn block_entries(text: &str) -> Vec<BlkIOEntry> {
    let entry = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (device, op, value) = match words[..] {
            [device, op, value] => (device, op, value),
            [device, value] => (device, "", value),
            _ => return None,
        };
        let (major, minor) = device.split_once(':')?;
        Some(BlkIOEntry {
            op: op.to_owned(),
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
            value: value.parse().ok()?,
            ..BlkIOEntry::default()
        })
    };
    text.lines().filter_map(entry).collect()
}

fn huge_pages(directory: &Path) -> Vec<HugetlbStat> {
    let stat = |size: String| {
        let file = |value: &str| number(directory, &format!("hugetlb.{size}.{value}"));
        HugetlbStat {
            usage: file("usage_in_bytes"),
            max: file("max_usage_in_bytes"),
            failcnt: file("failcnt"),
            pagesize: size.clone(),
            ..HugetlbStat::default()
        }
    };
    let sizes = huge_page_sizes(directory, "usage_in_bytes");
    sizes.into_iter().map(stat).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;
    use std::fs;

    #[test]
    fn reads_what_docker_shows() {
        let directory = tempfile::tempdir().unwrap();
        for (file, content) in [
            ("pids.current", "3\n"),
            ("pids.max", "max\n"),
            ("cpuacct.usage", "123456789\n"),
            ("cpuacct.usage_percpu", "100 23456689 \n"),
            ("cpuacct.stat", "user 7\nsystem 5\n"),
            (
                "cpu.stat",
                "nr_periods 10\nnr_throttled 2\nthrottled_time 99\n",
            ),
            ("memory.usage_in_bytes", "4096\n"),
            ("memory.limit_in_bytes", "67108864\n"),
            ("memory.failcnt", "1\n"),
            (
                "memory.stat",
                "cache 1\nrss 2\ntotal_inactive_file 1024\nhierarchical_memory_limit 67108864\n",
            ),
            (
                "memory.oom_control",
                "oom_kill_disable 0\nunder_oom 0\noom_kill 4\n",
            ),
            (
                "blkio.throttle.io_service_bytes_recursive",
                "8:0 Read 10\n8:0 Write 20\n8:0 Total 30\nTotal 30\n",
            ),
            ("hugetlb.2MB.usage_in_bytes", "0\n"),
        ] {
            fs::write(directory.path().join(file), content).unwrap();
        }
        let all = ["pids", "cpu", "cpuacct", "memory", "blkio", "hugetlb"];
        let metrics = read(&Cgroup::V1(
            all.map(|name| (name.to_owned(), directory.path().to_path_buf()))
                .to_vec(),
        ));
        assert_eq!((metrics.pids.current, metrics.pids.limit), (3, 0));
        assert_eq!(metrics.cpu.usage.total, 123_456_789);
        assert_eq!(metrics.cpu.usage.per_cpu, [100, 23_456_689]);
        assert_eq!(metrics.cpu.usage.user, 70_000_000);
        assert_eq!(metrics.cpu.usage.kernel, 50_000_000);
        assert_eq!(metrics.cpu.throttling.throttled_time, 99);
        assert_eq!(metrics.memory.usage.limit, 64 << 20);
        assert_eq!(metrics.memory.usage.usage, 4096);
        assert_eq!(metrics.memory.usage.failcnt, 1);
        assert_eq!(metrics.memory.total_inactive_file, 1024);
        assert_eq!(metrics.memory_oom_control.oom_kill, 4);
        let bytes = &metrics.blkio.io_service_bytes_recursive;
        assert_eq!(bytes.len(), 3);
        assert_eq!(
            (bytes[1].major, bytes[1].op.as_str(), bytes[1].value),
            (8, "Write", 20)
        );
        assert_eq!(metrics.hugetlb[0].pagesize, "2MB");
    }

    #[test]
    fn leaves_out_missing_controllers() {
        let metrics = read(&Cgroup::V1(Vec::new()));
        assert_eq!(metrics, Metrics::default());
    }

    proptest! {
        #[test]
        fn parses_any_text(text in any::<String>(), lines in "([a-zA-Z0-9: ]{0,30}\n){0,5}") {
            block_entries(&text);
            block_entries(&lines);
        }

        #[test]
        fn parses_what_the_kernel_writes(
            device in any::<(u64, u64)>(),
            op in "Read|Write|Sync|Async",
            value in any::<u64>(),
        ) {
            let text = format!("{}:{} {op} {value}\nTotal {value}\n", device.0, device.1);
            let entries = block_entries(&text);
            let [entry] = &entries[..] else { return Err(TestCaseError::fail("one line")) };
            prop_assert_eq!((entry.major, entry.minor), device);
            prop_assert_eq!((&entry.op, entry.value), (&op, value));
        }
    }
}
