//! Where in proxy.yaml something stands: the way to it by keys, and from that line and column.

use std::cell::{Cell, RefCell};
use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// The way to a value: `routes[0].path`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct At(Vec<Step>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Key(&'static str),
    Item(usize),
}

impl At {
    pub fn root() -> At {
        At::default()
    }

    pub fn key(&self, key: &'static str) -> At {
        self.then(Step::Key(key))
    }

    pub fn item(&self, index: usize) -> At {
        self.then(Step::Item(index))
    }

    /// Whether it is within the list of this name at the top.
    pub fn is_under(&self, key: &str) -> bool {
        matches!(self.0.first(), Some(Step::Key(first)) if *first == key)
    }

    fn then(&self, step: Step) -> At {
        let mut steps = self.0.clone();
        steps.push(step);
        At(steps)
    }
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, step) in self.0.iter().enumerate() {
            match step {
                Step::Key(key) if i == 0 => f.write_str(key)?,
                Step::Key(key) => write!(f, ".{key}")?,
                Step::Item(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

/// A place in the text, counted from 1, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    pub line: usize,
    pub column: usize,
}

impl Position {
    pub fn of(error: &serde_yaml::Error) -> Option<Position> {
        let location = error.location()?;
        Some(Position {
            line: location.line(),
            column: location.column(),
        })
    }
}

/// What stands at a place, and its text if it is a scalar.
pub struct Located {
    pub position: Position,
    pub scalar: Option<String>,
    /// It is there. Else this is what would hold it.
    pub exact: bool,
}

/// Reads the text once more, as far as that value, and stops there with an error: it bears the
/// position that the parser itself has seen, whatever the style of the file. If the way ends
/// before (a key that is not there), it is the place where it ends.
pub fn locate(text: &str, at: &At) -> Option<Located> {
    let scalar = RefCell::new(None);
    let exact = Cell::new(false);
    let walk = Walk {
        steps: &at.0,
        scalar: &scalar,
        exact: &exact,
    };
    let stopped = walk
        .deserialize(serde_yaml::Deserializer::from_str(text))
        .err()?;
    let position = Position::of(&stopped)?;
    Some(Located {
        position,
        scalar: scalar.into_inner(),
        exact: exact.get(),
    })
}

struct Walk<'a> {
    steps: &'a [Step],
    scalar: &'a RefCell<Option<String>>,
    exact: &'a Cell<bool>,
}

impl<'a> Walk<'a> {
    fn behind(&self) -> Walk<'a> {
        Walk {
            steps: &self.steps[1..],
            scalar: self.scalar,
            exact: self.exact,
        }
    }

    fn here<T, E: de::Error>() -> Result<T, E> {
        Err(E::custom("here"))
    }
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        match self.steps {
            [] => {
                self.exact.set(true);
                deserializer.deserialize_str(self)
            }
            _ => deserializer.deserialize_any(self),
        }
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the next step")
    }

    fn visit_str<E: de::Error>(self, scalar: &str) -> Result<(), E> {
        *self.scalar.borrow_mut() = Some(scalar.to_owned());
        Self::here()
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        if let Some(Step::Key(wanted)) = self.steps.first() {
            while let Some(key) = map.next_key::<String>()? {
                if key == *wanted {
                    return map.next_value_seed(self.behind());
                }
                map.next_value::<IgnoredAny>()?;
            }
        }
        Self::here()
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        if let Some(Step::Item(wanted)) = self.steps.first() {
            for _ in 0..*wanted {
                list.next_element::<IgnoredAny>()?;
            }
            // Only where there is such an item does this come back with an error of its own.
            list.next_element_seed(self.behind())?;
        }
        Self::here()
    }
}
