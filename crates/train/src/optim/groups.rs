//! Parameters with rates and weight decays of their own.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Optimizer, OptimizerKind, OptimizerOptions, Param, Reevaluate, build, options, slots};
use crate::{Error, Result, State};

/// Some parameters with options of their own, as PyTorch's parameter groups.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ParamGroup {
    /// Their names; `*` stands for any characters, e.g. `*.bias*` or `0.*`.
    pub params: Vec<String>,
    /// Their learning rate, before scheduling. Default: the model's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learning_rate: Option<f64>,
    /// Their weight decay. Default: the optimizer's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight_decay: Option<f64>,
}

/// A parameter as grouping sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParamInfo {
    /// Its name.
    pub name: String,
    /// The layer it belongs to; higher is nearer to the output.
    pub layer: usize,
    /// Whether it is an embedding table, whose gradients are row-sparse.
    pub table: bool,
}

/// Several optimizers, each for its own parameters.
struct Groups {
    kind: OptimizerKind,
    lr: f64,
    /// Each with the factor on the common rate.
    parts: Vec<(f64, Box<dyn Optimizer>)>,
    /// Which part a parameter belongs to.
    by_param: BTreeMap<String, usize>,
}

/// Builds an optimizer for `params`: one for all, or several where `groups` or `options.layer_wise_lr_decay` ask for
/// different rates or weight decays. SparseAdam moves the tables; the other parameters then get Adam with its options.
///
/// # Errors
/// As [`build`]; a pattern that fits no parameter, or two that fit one; groups or a decay for LBFGS, which takes all
/// parameters as one vector; SparseAdam without a table.
pub fn build_groups(
    kind: OptimizerKind,
    options: &OptimizerOptions,
    default_lr: f64,
    groups: &[ParamGroup],
    params: &[ParamInfo],
) -> Result<Box<dyn Optimizer>> {
    let lr = check_groups(kind, options, default_lr, groups)?;
    let decay = options.layer_wise_lr_decay;
    let options = OptimizerOptions { layer_wise_lr_decay: None, ..options.clone() };
    let tables = params.iter().filter(|param| param.table).count();
    if kind == OptimizerKind::SparseAdam && tables == 0 {
        return Err(no_table());
    }
    let mut layers: Vec<usize> = params.iter().map(|param| param.layer).collect();
    layers.sort_unstable();
    layers.dedup();
    let membership = membership(groups, params)?;
    let (mut parts, mut keys, mut by_param) = (Vec::new(), Vec::new(), BTreeMap::new());
    for (param, group) in params.iter().zip(membership) {
        let group = group.map(|group| &groups[group]);
        let above = layers.iter().filter(|&&layer| layer > param.layer).count();
        let own = group.and_then(|group| group.learning_rate).unwrap_or(lr);
        let factor = if lr > 0.0 { own / lr } else { 1.0 } * decay.unwrap_or(1.0).powi(above as i32);
        let kind = match kind {
            OptimizerKind::SparseAdam if !param.table => OptimizerKind::Adam,
            kind => kind,
        };
        let weight_decay = group.and_then(|group| group.weight_decay).or(options.weight_decay);
        let key = (kind, factor.to_bits(), weight_decay.map(f64::to_bits));
        let part = match keys.iter().position(|known| *known == key) {
            Some(part) => part,
            None => {
                let own =
                    OptimizerOptions { weight_decay, learning_rate: Some(lr * factor), ..options.clone() };
                let built = build(kind, &own, lr);
                let own_decay = group.is_some_and(|group| group.weight_decay.is_some());
                parts.push((factor, if own_decay { built.map_err(of_groups)? } else { built? }));
                keys.push(key);
                keys.len() - 1
            }
        };
        by_param.insert(param.name.clone(), part);
    }
    match parts.as_slice() {
        [] | [(1.0, _)] => build(kind, &OptimizerOptions { learning_rate: Some(lr), ..options }, lr),
        _ => Ok(Box::new(Groups { kind, lr, parts, by_param })),
    }
}

/// What [`build_groups`] refuses whatever the parameters are. The rate that it starts from.
pub(crate) fn check_groups(
    kind: OptimizerKind,
    options: &OptimizerOptions,
    default_lr: f64,
    groups: &[ParamGroup],
) -> Result<f64> {
    options.check(kind)?;
    let lr = options::rate(options.learning_rate.unwrap_or(default_lr))?;
    let decay = options.layer_wise_lr_decay;
    if let Some(decay) = decay.filter(|decay| !(*decay > 0.0 && *decay <= 1.0)) {
        return Err(Error::option("layer_wise_lr_decay", decay, "must be above 0 and at most 1, as 0.98"));
    }
    if kind == OptimizerKind::Lbfgs && (decay.is_some() || !groups.is_empty()) {
        let (field, value) = match decay {
            Some(decay) => ("layer_wise_lr_decay", decay.to_string()),
            None => ("param_groups", format!("{} groups", groups.len())),
        };
        return Err(Error::option(field, value, "LBFGS takes all parameters as one vector; leave it out"));
    }
    for (index, group) in groups.iter().enumerate() {
        if group.params.is_empty() {
            let remedy = format!("group {index} names no parameter; write a pattern, as \"*.bias*\"");
            return Err(Error::option("param_groups.params", "[]", remedy));
        }
        if let Some(own) = group.learning_rate.filter(|&own| options::rate(own).is_err()) {
            let remedy = "must be a number of at least 0, as 0.001";
            return Err(Error::option("param_groups.learning_rate", own, remedy));
        }
        // SparseAdam has none, but the parameters beside the tables get Adam.
        let kind = if kind == OptimizerKind::SparseAdam { OptimizerKind::Adam } else { kind };
        let own = OptimizerOptions { weight_decay: group.weight_decay, ..OptimizerOptions::default() };
        own.check(kind).map_err(of_groups)?;
    }
    Ok(lr)
}

/// The error of a group's own weight decay.
fn of_groups(error: Error) -> Error {
    match error {
        Error::Option { field, value, remedy } if field == "weight_decay" => {
            Error::option("param_groups.weight_decay", value, remedy)
        }
        other => other,
    }
}

/// SparseAdam for an encoder without a table.
pub(crate) fn no_table() -> Error {
    let remedy = "the encoder has no embedding table, whose gradients alone are sparse; write Adam";
    Error::option("optimizer", OptimizerKind::SparseAdam, remedy)
}

/// The group of each parameter.
fn membership(groups: &[ParamGroup], params: &[ParamInfo]) -> Result<Vec<Option<usize>>> {
    let mut found = vec![None; params.len()];
    for (index, group) in groups.iter().enumerate() {
        for pattern in &group.params {
            let mut any = false;
            for (slot, param) in found.iter_mut().zip(params) {
                if !fits(pattern, &param.name) {
                    continue;
                }
                any = true;
                if slot.replace(index).is_some_and(|other| other != index) {
                    let remedy = format!("`{}` is in another group too; let one pattern fit it", param.name);
                    return Err(Error::option("param_groups.params", pattern, remedy));
                }
            }
            if !any {
                let names: Vec<_> = params.iter().map(|param| param.name.as_str()).collect();
                let remedy = format!("fits no trained parameter; there are {}", names.join(", "));
                return Err(Error::option("param_groups.params", pattern, remedy));
            }
        }
    }
    Ok(found)
}

/// Whether `name` is `pattern` with something for each `*`.
fn fits(pattern: &str, name: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(mut name) = name.strip_prefix(first) else { return false };
    let (middle, last) = rest.rsplit_once('*').unwrap_or(("", rest));
    for part in middle.split('*') {
        // The first place that fits leaves most to the parts behind it.
        let Some((_, after)) = name.split_once(part) else { return false };
        name = after;
    }
    name.ends_with(last)
}

impl Groups {
    fn part(&self, param: &str) -> Result<usize> {
        self.by_param.get(param).copied().ok_or_else(|| {
            Error::Unsuitable(format!(
                "parameter `{param}` is in no group of the optimizer; build it with all of them"
            ))
        })
    }
}

impl Optimizer for Groups {
    fn kind(&self) -> OptimizerKind {
        self.kind
    }

    fn learning_rate(&self) -> f64 {
        self.lr
    }

    fn set_learning_rate(&mut self, learning_rate: f64) -> Result<()> {
        self.lr = options::rate(learning_rate)?;
        self.parts.iter_mut().try_for_each(|(factor, part)| part.set_learning_rate(learning_rate * *factor))
    }

    fn check(&self, params: &[Param<'_>]) -> Result<()> {
        slots::check(params)?;
        params
            .iter()
            .filter(|param| param.grad.is_some())
            .try_for_each(|param| self.part(param.name).map(drop))
    }

    fn step(&mut self, params: &mut [Param<'_>], _: Option<&mut Reevaluate<'_>>) -> Result<()> {
        self.check(params)?;
        let mut by_part: Vec<Vec<usize>> = vec![Vec::new(); self.parts.len()];
        for (index, param) in params.iter().enumerate() {
            if param.grad.is_some() {
                by_part[self.part(param.name)?].push(index);
            }
        }
        let gather = |params: &mut [Param<'_>],
                      indices: &[usize],
                      run: &mut dyn FnMut(&mut [Param<'_>]) -> Result<()>| {
            let mut own: Vec<Param<'_>> = Vec::with_capacity(indices.len());
            for (index, param) in params.iter_mut().enumerate() {
                if indices.contains(&index) {
                    own.push(Param { name: param.name, value: &mut *param.value, grad: param.grad.take() });
                }
            }
            let result = run(&mut own);
            let grads: Vec<_> = own.into_iter().map(|param| param.grad).collect();
            indices.iter().zip(grads).for_each(|(&index, grad)| params[index].grad = grad);
            result
        };
        // All of them first, so that none has moved where one cannot.
        for ((_, part), indices) in self.parts.iter().zip(&by_part) {
            gather(params, indices, &mut |own| part.check(own))?;
        }
        for ((_, part), indices) in self.parts.iter_mut().zip(&by_part) {
            gather(params, indices, &mut |own| part.step(own, None))?;
        }
        Ok(())
    }

    fn state(&self) -> State {
        let mut state = State::default();
        self.parts.iter().for_each(|(_, part)| state.merge(part.state()));
        state
    }

    fn load_state(&mut self, state: &State) -> Result<()> {
        let mut states: Vec<State> = self.parts.iter().map(|_| State::default()).collect();
        let owner = |key: &str| self.part(key.rsplit_once('.').map_or(key, |(param, _)| param));
        for (key, tensor) in &state.tensors {
            states[owner(key)?].tensors.insert(key.clone(), tensor.clone());
        }
        for (key, &count) in &state.counters {
            states[owner(key)?].counters.insert(key.clone(), count);
        }
        self.parts.iter_mut().zip(&states).try_for_each(|((_, part), state)| part.load_state(state))
    }
}

#[cfg(test)]
mod tests {
    use embedtune_core::{Grad, Value};
    use ndarray::ArrayD;

    use super::*;

    fn infos() -> Vec<ParamInfo> {
        let info = |name: &str, layer, table| ParamInfo { name: name.to_owned(), layer, table };
        vec![
            info("0.embedding.weight", 0, true),
            info("2.linear.weight", 2, false),
            info("2.linear.bias", 2, false),
            info("5.linear.weight", 5, false),
        ]
    }

    /// How far a step with gradient 1 moves each parameter.
    fn moves(optimizer: &mut dyn Optimizer) -> Vec<f32> {
        let infos = infos();
        let mut values = vec![Value::zeros(vec![1]); infos.len()];
        let mut params: Vec<Param<'_>> = infos
            .iter()
            .zip(&mut values)
            .map(|(info, value)| Param {
                name: &info.name,
                value,
                grad: Some(Grad::Dense(ArrayD::ones(vec![1]))),
            })
            .collect();
        optimizer.step(&mut params, None).unwrap();
        assert!(params.iter().all(|param| param.grad.is_some()));
        drop(params);
        values.iter().map(|value| -value[[0]]).collect()
    }

    #[test]
    fn layers_and_groups_have_their_rates() {
        let options = OptimizerOptions { layer_wise_lr_decay: Some(0.5), ..OptimizerOptions::default() };
        let mut sgd = build_groups(OptimizerKind::Sgd, &options, 0.8, &[], &infos()).unwrap();
        assert_eq!(moves(sgd.as_mut()), [0.2, 0.4, 0.4, 0.8]);
        sgd.set_learning_rate(0.08).unwrap();
        assert!((moves(sgd.as_mut())[0] - 0.02).abs() < 1e-7);
        let groups = [ParamGroup {
            params: vec!["*.bias".to_owned()],
            learning_rate: Some(0.1),
            weight_decay: Some(0.0),
        }];
        let plain = OptimizerOptions::default();
        let mut sgd = build_groups(OptimizerKind::Sgd, &plain, 0.8, &groups, &infos()).unwrap();
        assert_eq!(moves(sgd.as_mut()), [0.8, 0.8, 0.1, 0.8]);
    }

    #[test]
    fn the_state_is_split_by_parameter() {
        let options = OptimizerOptions { layer_wise_lr_decay: Some(0.5), ..OptimizerOptions::default() };
        let build = || build_groups(OptimizerKind::Adam, &options, 0.1, &[], &infos()).unwrap();
        let (mut one, mut two) = (build(), build());
        moves(one.as_mut());
        two.load_state(&one.state()).unwrap();
        assert_eq!(one.state(), two.state());
        assert_eq!(moves(one.as_mut()), moves(two.as_mut()));
        let mut foreign = one.state();
        foreign.counters.insert("9.linear.step".to_owned(), 1);
        assert!(two.load_state(&foreign).unwrap_err().to_string().contains("`9.linear`"));
    }

    #[test]
    fn stars_stand_for_anything() {
        for (pattern, name, expected) in [
            ("2.linear.bias", "2.linear.bias", true),
            ("2.linear", "2.linear.bias", false),
            ("*", "", true),
            ("*.bias", "2.linear.bias", true),
            ("2.*", "12.linear", false),
            ("*near*", "2.linear.bias", true),
            ("a*a", "a", false),
            ("a*a", "aa", true),
            ("*a*b*", "xbxaxb", true),
            ("*a*b*", "xbxax", false),
            ("**é", "caféé", true),
        ] {
            assert_eq!(fits(pattern, name), expected, "{pattern} {name}");
        }
        // Without an end where every star is tried at every place.
        assert!(!fits(&"*a".repeat(40), &format!("{}b", "a".repeat(80))));
    }

    #[test]
    fn wrong_groups_are_refused_by_name() {
        let group = |pattern: &str| ParamGroup {
            params: vec![pattern.to_owned()],
            learning_rate: None,
            weight_decay: Some(0.1),
        };
        let plain = OptimizerOptions::default();
        let try_groups = |kind, options: &OptimizerOptions, groups: &[ParamGroup], params: &[ParamInfo]| {
            build_groups(kind, options, 0.1, groups, params).map(drop).unwrap_err().to_string()
        };
        let decayed = |decay| OptimizerOptions { layer_wise_lr_decay: Some(decay), ..plain.clone() };
        for (message, expected) in [
            (
                try_groups(OptimizerKind::Sgd, &plain, &[group("9.*")], &infos()),
                "9.*: fits no trained parameter",
            ),
            (
                try_groups(OptimizerKind::Sgd, &plain, &[group("2.*"), group("*.bias")], &infos()),
                "`2.linear.bias` is in another group too",
            ),
            (try_groups(OptimizerKind::Lbfgs, &plain, &[group("2.*")], &infos()), "as one vector"),
            (try_groups(OptimizerKind::Sgd, &decayed(1.5), &[], &infos()), "layer_wise_lr_decay = 1.5"),
            (try_groups(OptimizerKind::SparseAdam, &plain, &[], &infos()[1..]), "no embedding table"),
            (try_groups(OptimizerKind::Rprop, &plain, &[group("2.*")], &infos()), "Rprop has no such option"),
        ] {
            assert!(message.contains(expected), "{message}");
        }
    }
}
