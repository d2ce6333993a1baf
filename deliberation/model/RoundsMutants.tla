---------------------------- MODULE RoundsMutants ----------------------------
(* Mistakes that one could make with rounds; see Mutants.                     *)
EXTENDS Rounds

(* No compare-and-set where one is. *)
Always         == TRUE
AlwaysOf(r)    == TRUE
AlwaysAt(r, p) == TRUE

(* The turns of an attempt before are not loaded. *)
ForgottenTurns(r) == {}

(* A close lists turns that are not recorded. *)
ListsHeld(w) == Places_(workers[w].held)

(* A worker counts the turns it holds, whatever the close lists. *)
CountsHeld(w, r) == workers[w].held

(* A worker counts every recorded turn, late ones too. *)
CountsAll(w, r) == TurnsOf(r)

(* A keeper does not look for the last close. *)
FirstRound == IF Closed(1) THEN 1 ELSE 0
=============================================================================
