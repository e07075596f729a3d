//! Filters of system calls, by the crate `seccompiler`.

use std::collections::BTreeMap;
use std::io;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

/// System calls, each with the rules of which one must match its arguments; without rules the call itself is enough.
pub(crate) type Rules = BTreeMap<libc::c_long, Vec<SeccompRule>>;

/// Makes a filter, with what comes of a call that matches and of one that does not.
pub(crate) fn filter(
    rules: Rules,
    matching: SeccompAction,
    other: SeccompAction,
) -> io::Result<BpfProgram> {
    let architecture = TargetArch::try_from(std::env::consts::ARCH).map_err(io::Error::other)?;
    SeccompFilter::new(rules, other, matching, architecture)
        .and_then(BpfProgram::try_from)
        .map_err(io::Error::other)
}

/// From now on, for this thread and those that it makes. Nothing, where the kernel has no filters.
///
/// # Errors
/// An outer filter does not let us.
pub(crate) fn apply(program: &BpfProgram) -> io::Result<()> {
    match seccompiler::apply_filter(program) {
        Err(seccompiler::Error::Seccomp(error))
            if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOSYS)) =>
        {
            Ok(())
        }
        applied => applied.map_err(io::Error::other),
    }
}

/// Refuses a call with an error.
pub(crate) fn refused(error: libc::c_int) -> SeccompAction {
    SeccompAction::Errno(error.cast_unsigned())
}

/// A rule that matches where all of its conditions do.
pub(crate) fn rule<const N: usize>(
    conditions: [io::Result<SeccompCondition>; N],
) -> io::Result<SeccompRule> {
    let conditions = conditions.into_iter().collect::<io::Result<_>>()?;
    SeccompRule::new(conditions).map_err(io::Error::other)
}

/// A condition on the lower half of an argument: what the kernel looks at where it takes an `int`.
pub(crate) fn argument(
    index: u8,
    compare: SeccompCmpOp,
    value: libc::c_int,
) -> io::Result<SeccompCondition> {
    let value = u64::from(value.cast_unsigned());
    SeccompCondition::new(index, SeccompCmpArgLen::Dword, compare, value).map_err(io::Error::other)
}

/// Compares some bits.
pub(crate) fn masked(bits: libc::c_int) -> SeccompCmpOp {
    SeccompCmpOp::MaskedEq(u64::from(bits.cast_unsigned()))
}
