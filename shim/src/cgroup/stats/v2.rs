//! Statistics of cgroup v2: `io.containerd.cgroups.v2.Metrics`.

use std::path::Path;

use containerd_shim_protos::cgroups_v2::metrics::{
    CPUStat, HugeTlbStat, IOEntry, IOStat, MemoryEvents, MemoryStat, Metrics, PSIData, PSIStats,
    PidsStat,
};
use containerd_shim_protos::protobuf::MessageField;

use super::files::{Table, huge_page_sizes, number, text};

/// Reads the statistics of a cgroup.
pub(super) fn read(directory: &Path) -> Metrics {
    Metrics {
        pids: MessageField::some(PidsStat {
            current: number(directory, "pids.current"),
            limit: number(directory, "pids.max"),
            ..PidsStat::default()
        }),
        cpu: MessageField::some(cpu(directory)),
        memory: MessageField::some(memory(directory)),
        io: MessageField::some(IOStat {
            usage: parse_io(&text(directory, "io.stat")),
            psi: pressure(directory, "io.pressure"),
            ..IOStat::default()
        }),
        hugetlb: huge_pages(directory),
        memory_events: MessageField::some(events(directory)),
        ..Metrics::default()
    }
}

fn cpu(directory: &Path) -> CPUStat {
    let stat = Table::read(directory, "cpu.stat");
    CPUStat {
        usage_usec: stat.get("usage_usec"),
        user_usec: stat.get("user_usec"),
        system_usec: stat.get("system_usec"),
        nr_periods: stat.get("nr_periods"),
        nr_throttled: stat.get("nr_throttled"),
        throttled_usec: stat.get("throttled_usec"),
        nr_bursts: stat.get("nr_bursts"),
        burst_usec: stat.get("burst_usec"),
        psi: pressure(directory, "cpu.pressure"),
        ..CPUStat::default()
    }
}

fn memory(directory: &Path) -> MemoryStat {
    let stat = Table::read(directory, "memory.stat");
    MemoryStat {
        anon: stat.get("anon"),
        file: stat.get("file"),
        kernel_stack: stat.get("kernel_stack"),
        slab: stat.get("slab"),
        sock: stat.get("sock"),
        shmem: stat.get("shmem"),
        file_mapped: stat.get("file_mapped"),
        file_dirty: stat.get("file_dirty"),
        file_writeback: stat.get("file_writeback"),
        anon_thp: stat.get("anon_thp"),
        inactive_anon: stat.get("inactive_anon"),
        active_anon: stat.get("active_anon"),
        inactive_file: stat.get("inactive_file"),
        active_file: stat.get("active_file"),
        unevictable: stat.get("unevictable"),
        slab_reclaimable: stat.get("slab_reclaimable"),
        slab_unreclaimable: stat.get("slab_unreclaimable"),
        pgfault: stat.get("pgfault"),
        pgmajfault: stat.get("pgmajfault"),
        // Split into two counters since Linux 5.9.
        workingset_refault: stat.sum([
            "workingset_refault",
            "workingset_refault_anon",
            "workingset_refault_file",
        ]),
        workingset_activate: stat.sum([
            "workingset_activate",
            "workingset_activate_anon",
            "workingset_activate_file",
        ]),
        workingset_nodereclaim: stat.get("workingset_nodereclaim"),
        pgrefill: stat.get("pgrefill"),
        pgscan: stat.get("pgscan"),
        pgsteal: stat.get("pgsteal"),
        pgactivate: stat.get("pgactivate"),
        pgdeactivate: stat.get("pgdeactivate"),
        pglazyfree: stat.get("pglazyfree"),
        pglazyfreed: stat.get("pglazyfreed"),
        thp_fault_alloc: stat.get("thp_fault_alloc"),
        thp_collapse_alloc: stat.get("thp_collapse_alloc"),
        usage: number(directory, "memory.current"),
        usage_limit: number(directory, "memory.max"),
        swap_usage: number(directory, "memory.swap.current"),
        swap_limit: number(directory, "memory.swap.max"),
        max_usage: number(directory, "memory.peak"),
        swap_max_usage: number(directory, "memory.swap.peak"),
        psi: pressure(directory, "memory.pressure"),
        ..MemoryStat::default()
    }
}

fn events(directory: &Path) -> MemoryEvents {
    let events = Table::read(directory, "memory.events");
    MemoryEvents {
        low: events.get("low"),
        high: events.get("high"),
        max: events.get("max"),
        oom: events.get("oom"),
        oom_kill: events.get("oom_kill"),
        oom_group_kill: events.get("oom_group_kill"),
        ..MemoryEvents::default()
    }
}

/// Parses lines `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6`.
fn parse_io(text: &str) -> Vec<IOEntry> {
    let entry = |line: &str| {
        let (device, values) = line.split_once(' ')?;
        let (major, minor) = device.split_once(':')?;
        let mut entry = IOEntry {
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
            ..IOEntry::default()
        };
        for (name, value) in values.split(' ').filter_map(|pair| pair.split_once('=')) {
            let value = value.parse().unwrap_or(0);
            match name {
                "rbytes" => entry.rbytes = value,
                "wbytes" => entry.wbytes = value,
                "rios" => entry.rios = value,
                "wios" => entry.wios = value,
                _ => {}
            }
        }
        Some(entry)
    };
    text.lines().filter_map(entry).collect()
}

fn pressure(directory: &Path, file: &str) -> MessageField<PSIStats> {
    parse_pressure(&text(directory, file))
}

/// Parses lines `some avg10=0.00 avg60=0.00 avg300=0.00 total=0` and `full ...`. Returns nothing if
/// the kernel does not measure pressure.
fn parse_pressure(text: &str) -> MessageField<PSIStats> {
    let line = |name: &str| {
        let words = text.lines().find_map(|line| line.strip_prefix(name))?;
        let mut data = PSIData::default();
        for (name, value) in words.split(' ').filter_map(|pair| pair.split_once('=')) {
            match name {
                "avg10" => data.avg10 = value.parse().ok()?,
                "avg60" => data.avg60 = value.parse().ok()?,
                "avg300" => data.avg300 = value.parse().ok()?,
                "total" => data.total = value.parse().ok()?,
                _ => {}
            }
        }
        Some(data)
    };
    if text.is_empty() {
        return MessageField::none();
    }
    MessageField::some(PSIStats {
        some: line("some ").into(),
        full: line("full ").into(),
        ..PSIStats::default()
    })
}

fn huge_pages(directory: &Path) -> Vec<HugeTlbStat> {
    let stat = |size: String| HugeTlbStat {
        current: number(directory, &format!("hugetlb.{size}.current")),
        max: number(directory, &format!("hugetlb.{size}.max")),
        failcnt: Table::read(directory, &format!("hugetlb.{size}.events")).get("max"),
        pagesize: size,
        ..HugeTlbStat::default()
    };
    let sizes = huge_page_sizes(directory, "current");
    sizes
        .into_iter()
        .filter(|size| size != "rsvd")
        .map(stat)
        .collect()
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
            (
                "cpu.stat",
                "usage_usec 300\nuser_usec 200\nsystem_usec 100\nnr_throttled 2\n",
            ),
            ("memory.current", "4096\n"),
            ("memory.max", "67108864\n"),
            (
                "memory.stat",
                "anon 5\ninactive_file 1024\nworkingset_refault_file 3\n",
            ),
            ("memory.events", "low 0\noom 1\noom_kill 2\n"),
            (
                "io.stat",
                "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n",
            ),
            (
                "cpu.pressure",
                "some avg10=1.50 avg60=0.00 avg300=0.00 total=77\n\
                 full avg10=0.00 avg60=0.00 avg300=0.00 total=1\n",
            ),
            ("hugetlb.2MB.current", "8\n"),
            ("hugetlb.2MB.rsvd.current", "8\n"),
            ("hugetlb.2MB.events", "max 6\n"),
        ] {
            fs::write(directory.path().join(file), content).unwrap();
        }
        let metrics = read(directory.path());
        assert_eq!((metrics.pids.current, metrics.pids.limit), (3, u64::MAX));
        assert_eq!(metrics.cpu.usage_usec, 300);
        assert_eq!(metrics.cpu.psi.some.avg10, 1.5);
        assert_eq!(metrics.cpu.psi.full.total, 1);
        assert_eq!(metrics.memory.usage_limit, 64 << 20);
        assert_eq!(metrics.memory.inactive_file, 1024);
        assert_eq!(metrics.memory.workingset_refault, 3);
        assert!(metrics.memory.psi.is_none());
        assert_eq!(metrics.memory_events.oom_kill, 2);
        assert_eq!(metrics.io.usage[0].wios, 4);
        assert_eq!(metrics.hugetlb.len(), 1);
        assert_eq!(
            (metrics.hugetlb[0].current, metrics.hugetlb[0].failcnt),
            (8, 6)
        );
    }

    proptest! {
        #[test]
        fn parses_any_text(text in any::<String>(), lines in "([a-z0-9:= .-]{0,30}\n){0,5}") {
            for text in [text, lines] {
                parse_io(&text);
                parse_pressure(&text);
            }
        }

        #[test]
        fn parses_what_the_kernel_writes(
            device in any::<(u64, u64)>(),
            counts in any::<[u64; 4]>(),
            totals in any::<[u64; 2]>(),
        ) {
            let [rbytes, wbytes, rios, wios] = counts;
            let line = format!(
                "{}:{} rbytes={rbytes} wbytes={wbytes} rios={rios} wios={wios} dbytes=0 dios=0",
                device.0, device.1
            );
            let entries = parse_io(&line);
            let [entry] = &entries[..] else { return Err(TestCaseError::fail("one line")) };
            prop_assert_eq!((entry.major, entry.minor), device);
            prop_assert_eq!([entry.rbytes, entry.wbytes, entry.rios, entry.wios], counts);
            let averages = "avg10=0.00 avg60=0.00 avg300=0.00";
            let [some, full] = totals;
            let text = format!("some {averages} total={some}\nfull {averages} total={full}\n");
            let parsed = parse_pressure(&text);
            prop_assert_eq!([parsed.some.total, parsed.full.total], totals);
        }
    }
}
