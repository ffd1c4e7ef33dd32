//! The date and time that a template may ask for.

use minijinja::{Error, ErrorKind};

/// A date and time of day. Fixed for as long as a template is in use, so that what was rendered once stays the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DateTime {
    /// Of the common era.
    pub year: i32,
    /// 1 to 12.
    pub month: u32,
    /// 1 to 31.
    pub day: u32,
    /// 0 to 23.
    pub hour: u32,
    /// 0 to 59.
    pub minute: u32,
    /// 0 to 60.
    pub second: u32,
}

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

impl DateTime {
    /// Days from 0000-03-01 to the date.
    fn days(&self) -> i64 {
        // Years begin in March, so that the leap day is the last.
        let (year, month) = match self.month {
            3.. => (i64::from(self.year), i64::from(self.month) - 3),
            _ => (i64::from(self.year) - 1, i64::from(self.month) + 9),
        };
        let leaps = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
        365 * year + leaps + (153 * month + 2) / 5 + i64::from(self.day) - 1
    }

    /// The text for a format of C's `strftime` in the locale C.
    ///
    /// # Errors
    /// For a directive that is not known.
    pub(super) fn format(&self, format: &str) -> Result<String, Error> {
        let month = MONTHS[(self.month.clamp(1, 12) - 1) as usize];
        // 0000-03-01 is a Wednesday.
        let weekday = DAYS[(self.days() + 3).rem_euclid(7) as usize];
        let year_day = self.days() - DateTime { month: 1, day: 1, ..*self }.days() + 1;
        let hour12 = (self.hour + 11) % 12 + 1;
        let mut out = String::new();
        let mut chars = format.chars();
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
                Some('Y') => self.year.to_string(),
                Some('y') => two(self.year.rem_euclid(100) as u32),
                Some('m') => two(self.month),
                Some('d') => two(self.day),
                Some('e') if !bare => format!("{:2}", self.day),
                Some('e') => self.day.to_string(),
                Some('B') => month.to_owned(),
                Some('b' | 'h') => month[..3].to_owned(),
                Some('A') => weekday.to_owned(),
                Some('a') => weekday[..3].to_owned(),
                Some('H') => two(self.hour),
                Some('I') => two(hour12),
                Some('M') => two(self.minute),
                Some('S') => two(self.second),
                Some('p') => if self.hour < 12 { "AM" } else { "PM" }.to_owned(),
                Some('j') if bare => year_day.to_string(),
                Some('j') => format!("{year_day:03}"),
                Some('F') => self.format("%Y-%m-%d")?,
                Some('T') => self.format("%H:%M:%S")?,
                Some('D') => self.format("%m/%d/%y")?,
                Some('R') => self.format("%H:%M")?,
                Some('n') => "\n".to_owned(),
                Some('t') => "\t".to_owned(),
                Some('%') => "%".to_owned(),
                // A time without a zone, as in Python.
                Some('Z' | 'z') => String::new(),
                other => {
                    let other = other.map(String::from).unwrap_or_default();
                    return Err(Error::new(
                        ErrorKind::InvalidOperation,
                        format!("strftime_now: %{other} is not known"),
                    ));
                }
            });
        }
        Ok(out)
    }
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
            assert_eq!(at.format(format).unwrap(), want);
        }
        check((2026, 11, 22), (12, 0, 0), "%d %b %Y, %A", "22 Nov 2026, Sunday");
        check((2024, 7, 4), (0, 5, 9), "%-d.%-m.%y %I:%M:%S %p %a %B", "4.7.24 12:05:09 AM Thu July");
        check((2024, 12, 31), (23, 59, 60), "%F %T %j%% %e %h", "2024-12-31 23:59:60 366% 31 Dec");
        check((2023, 3, 1), (13, 0, 0), "%j %e %-I", "060  1 1");
        check((1970, 1, 1), (0, 0, 0), "%A %j", "Thursday 001");
        check((2000, 2, 29), (0, 0, 0), "%A %j", "Tuesday 060");
        let at = DateTime { year: 2026, month: 1, day: 1, hour: 0, minute: 0, second: 0 };
        assert!(at.format("%Q").unwrap_err().to_string().contains("%Q is not known"));
        assert!(at.format("%").is_err());
    }
}
