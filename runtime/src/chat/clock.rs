//! The date and time that a template may ask for.

use super::DateTime;
use minijinja::{Error, ErrorKind};

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// Days from 0000-03-01 to the date.
fn days(at: &DateTime) -> i64 {
    // Years begin in March, so that the leap day is the last.
    let (year, month) = match at.month {
        3.. => (i64::from(at.year), i64::from(at.month) - 3),
        _ => (i64::from(at.year) - 1, i64::from(at.month) + 9),
    };
    let leaps = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    365 * year + leaps + (153 * month + 2) / 5 + i64::from(at.day) - 1
}

/// The text for a format of C's `strftime` in the locale C.
///
/// # Errors
/// For a directive that is not known.
pub(super) fn format(at: &DateTime, directives: &str) -> Result<String, Error> {
    let month = MONTHS[(at.month.clamp(1, 12) - 1) as usize];
    // 0000-03-01 is a Wednesday.
    let weekday = DAYS[(days(at) + 3).rem_euclid(7) as usize];
    let year_day = days(at) - days(&DateTime { month: 1, day: 1, ..*at }) + 1;
    let hour12 = (at.hour + 11) % 12 + 1;
    let mut out = String::new();
    let mut chars = directives.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut directive = chars.next();
        let bare = directive == Some('-');
        if bare {
            directive = chars.next();
        }
        let two = |n: u32| if bare { n.to_string() } else { format!("{n:02}") };
        out.push_str(&match directive {
            Some('Y') => at.year.to_string(),
            Some('y') => two(at.year.rem_euclid(100) as u32),
            Some('m') => two(at.month),
            Some('d') => two(at.day),
            Some('e') if !bare => format!("{:2}", at.day),
            Some('e') => at.day.to_string(),
            Some('B') => month.to_owned(),
            Some('b' | 'h') => month[..3].to_owned(),
            Some('A') => weekday.to_owned(),
            Some('a') => weekday[..3].to_owned(),
            Some('H') => two(at.hour),
            Some('I') => two(hour12),
            Some('M') => two(at.minute),
            Some('S') => two(at.second),
            Some('p') => if at.hour < 12 { "AM" } else { "PM" }.to_owned(),
            Some('j') if bare => year_day.to_string(),
            Some('j') => format!("{year_day:03}"),
            Some('F') => format(at, "%Y-%m-%d")?,
            Some('T') => format(at, "%H:%M:%S")?,
            Some('D') => format(at, "%m/%d/%y")?,
            Some('R') => format(at, "%H:%M")?,
            Some('n') => "\n".to_owned(),
            Some('t') => "\t".to_owned(),
            Some('%') => "%".to_owned(),
            // A time without a zone, as in Python.
            Some('Z' | 'z') => String::new(),
            other => {
                let other = other.map(String::from).unwrap_or_default();
                return Err(Error::new(ErrorKind::InvalidOperation, format!("strftime_now: %{other} is not known")));
            }
        });
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats() {
        #[track_caller]
        fn check(date: (i32, u32, u32), time: (u32, u32, u32), format: &str, want: &str) {
            let ((year, month, day), (hour, minute, second)) = (date, time);
            let at = DateTime { year, month, day, hour, minute, second };
            assert_eq!(super::format(&at, format).unwrap(), want);
        }
        check((2026, 11, 22), (12, 0, 0), "%d %b %Y, %A", "22 Nov 2026, Sunday");
        check((2024, 7, 4), (0, 5, 9), "%-d.%-m.%y %I:%M:%S %p %a %B", "4.7.24 12:05:09 AM Thu July");
        check((2024, 12, 31), (23, 59, 60), "%F %T %j%% %e %h", "2024-12-31 23:59:60 366% 31 Dec");
        check((2023, 3, 1), (13, 0, 0), "%j %e %-I", "060  1 1");
        check((1970, 1, 1), (0, 0, 0), "%A %j", "Thursday 001");
        check((2000, 2, 29), (0, 0, 0), "%A %j", "Tuesday 060");
        let at = DateTime { year: 2026, month: 1, day: 1, hour: 0, minute: 0, second: 0 };
        assert!(super::format(&at, "%Q").unwrap_err().to_string().contains("%Q is not known"));
        assert!(super::format(&at, "%").is_err());
    }
}
