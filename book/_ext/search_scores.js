// Prose comes before the names of the library's modules, functions and constants (the pages reference_*).
var Scorer = {
  score: ([docname, , , , score]) => score - (docname.startsWith("reference_") ? 100 : 0),
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
