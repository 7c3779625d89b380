//! Points in time as OpenSIPS writes them, from seconds since 1970 (UTC).

const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
const WEEKDAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];

struct Civil {
    year: u64,
    month: u64,
    day: u64,
    second: u64,
    days: u64,
}

fn civil(unix: u64) -> Civil {
    let (days, second) = (unix / 86_400, unix % 86_400);
    let (mut year, mut left) = (1970, days);
    loop {
        let length = if leap(year) { 366 } else { 365 };
        if left < length {
            break;
        }
        left -= length;
        year += 1;
    }
    let mut month = 1;
    for length in [31, if leap(year) { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if left < length {
            break;
        }
        left -= length;
        month += 1;
    }
    Civil { year, month, day: left + 1, second, days }
}

fn leap(year: u64) -> bool {
    (year.is_multiple_of(4) && !year.is_multiple_of(100)) || year.is_multiple_of(400)
}

/// `Sun Nov 22 21:32:58 2026`, as `uptime` answers.
pub(super) fn asctime(unix: u64) -> String {
    let c = civil(unix);
    let weekday = WEEKDAYS.get(usize::try_from(c.days % 7).unwrap_or_default()).unwrap_or(&"Thu");
    let month = MONTHS.get(usize::try_from(c.month - 1).unwrap_or_default()).unwrap_or(&"Jan");
    format!(
        "{weekday} {month} {:2} {:02}:{:02}:{:02} {}",
        c.day,
        c.second / 3600,
        c.second / 60 % 60,
        c.second % 60,
        c.year
    )
}

/// `2026-11-22 21:23:14`, as `dlg_list` answers.
pub(super) fn datetime(unix: u64) -> String {
    let c = civil(unix);
    format!(
        "{:04}-{:02}-{:02} {:02}:{:02}:{:02}",
        c.year,
        c.month,
        c.day,
        c.second / 3600,
        c.second / 60 % 60,
        c.second % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_recorded() {
        // traces/3.6/call_start_ok.jsonl: timestart and datestart of one dialog.
        assert_eq!(datetime(1_795_382_594), "2026-11-22 21:23:14");
        assert_eq!(asctime(1_795_382_594), "Sun Nov 22 21:23:14 2026");
        assert_eq!(asctime(0), "Thu Jan  1 00:00:00 1970");
        assert_eq!(datetime(951_782_400), "2000-02-29 00:00:00");
        assert_eq!(datetime(1_735_689_599), "2024-12-31 23:59:59");
    }
}
