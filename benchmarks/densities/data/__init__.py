"""Data and references of the posteriors, as `make_references` writes them.

Data come from posteriordb (https://github.com/stan-dev/posteriordb, BSD-3-Clause, see LICENSE beside this file);
`references.json` has the checksums of the archives that were read.

| file                 | in posteriordb           | contents                                             |
| -------------------- | ------------------------ | ---------------------------------------------------- |
| `eight_schools.json` | `eight_schools`          | 8 schools: effect and its standard error             |
| `vote.csv`           | `nes_logit_data`         | 5 incomes: voters, and those for Bush                |
| `wells.csv`          | `wells_data`             | distance in 100 m and arsenic: wells, and those left |
| `references.json`    | draws of `eight_schools` | moments of parameters, and their errors              |

The references of the regressions are our own, by quadrature; those of the lattices too, from long runs of HMC
(`make_phi4_references`).
"""
