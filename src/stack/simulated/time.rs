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

/// Days to year, month and day by eras of 400 years that begin on 1 March.
fn civil(unix: u64) -> Civil {
    let (days, second) = (unix / 86_400, unix % 86_400);
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    Civil {
        year: year_of_era + era * 400 + u64::from(month <= 2),
        month,
        day: of_year - (153 * from_march + 2) / 5 + 1,
        second,
        days,
    }
}

/// `Sun Nov 22 21:32:58 2026`, as `uptime` answers.
pub(super) fn asctime(unix: u64) -> String {
    let c = civil(unix);
    let weekday = WEEKDAYS.get(usize::try_from(c.days % 7).unwrap_or_default()).unwrap_or(&"Thu");
    let month = MONTHS.get(usize::try_from(c.month - 1).unwrap_or_default()).unwrap_or(&"Jan");
    let mut text = String::with_capacity(24);
    text.push_str(weekday);
    text.push(' ');
    text.push_str(month);
    text.push(' ');
    if c.day < 10 {
        text.push(' ');
        text.push(digit(c.day));
    } else {
        two(c.day, &mut text);
    }
    text.push(' ');
    clock(c.second, &mut text);
    text.push(' ');
    year(c.year, &mut text);
    text
}

fn digit(number: u64) -> char {
    u32::try_from(number % 10).ok().and_then(|n| char::from_digit(n, 10)).unwrap_or('0')
}

/// Two digits. Times are written for each request: formatting would be most of what it costs.
fn two(number: u64, text: &mut String) {
    text.push(digit(number / 10));
    text.push(digit(number));
}

fn year(year: u64, text: &mut String) {
    two(year / 100, text);
    two(year % 100, text);
}

/// `21:23:14` of a second of the day.
fn clock(second: u64, text: &mut String) {
    two(second / 3600, text);
    text.push(':');
    two(second / 60 % 60, text);
    text.push(':');
    two(second % 60, text);
}

/// `2026-11-22 21:23:14`, as `dlg_list` answers.
pub(super) fn datetime(unix: u64) -> String {
    let c = civil(unix);
    let mut text = String::with_capacity(19);
    year(c.year, &mut text);
    text.push('-');
    two(c.month, &mut text);
    text.push('-');
    two(c.day, &mut text);
    text.push(' ');
    clock(c.second, &mut text);
    text
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
