"""The one table of what keys do: bindings, footer, help, palette and keymap come from it.

An action's id is ``scope.name``; the screen (or app) of that scope has ``action_name``.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Action:
    """One thing a key does. ``footer``: its place in the key bar, 0 for none."""

    id: str
    keys: str  # Textual key names, comma separated
    label: str  # one or two words
    help: str  # one sentence
    footer: int = 0
    row: str = ""  # id of the first of the actions beside it that it stands for in the key bar
    priority: bool = False  # works while a text field has the keyboard

    @property
    def scope(self) -> str:
        return self.id.partition(".")[0]

    @property
    def name(self) -> str:
        return self.id.partition(".")[2]


# Screens that `g` and a letter open, in order: (name, title, letter, what it is for).
PLACES: tuple[tuple[str, str, str, str], ...] = (
    ("datasets", "Datasets", "d", "Folders of pictures and their captions."),
    ("review", "Review", "v", "Read, mend and accept captions, one picture after the other."),
    ("train", "Train", "t", "Fill in a recipe and start a run."),
    ("runs", "Runs", "r", "Watch and steer runs: loss, memory, samples, queue."),
    ("mixer", "Mixer", "m", "Turn the weights of several LoRAs; the picture follows."),
    ("library", "Library", "l", "LoRA files, and pictures with and without them."),
    ("gallery", "Gallery", "p", "Pictures, and what each was made with."),
    ("bases", "Bases", "b", "What LoRAs are trained on and used with."),
)

ACTIONS: tuple[Action, ...] = (
    # Everywhere.
    Action("app.go", "g", "go to", "Then a letter: the screen to go to.", 90),
    Action("app.help", "question_mark", "help", "What the keys do here.", 92),
    Action("app.commands", "colon,ctrl+p", "commands", "Find any action by its name.", 91),
    Action("app.leave", "q", "detach", "Leave; runs go on in the daemon.", 93),
    Action(
        "app.leave_now", "ctrl+q", "detach", "Leave, also from inside a text field.", priority=True
    ),
    Action("app.pictures", "f8", "pictures", "How pictures are shown here; for a slow link."),
    *(Action(f"go.{name}", key, title, text) for name, title, key, text in PLACES),
    # Lists.
    Action("list.up", "up", "up", "One row up."),
    Action("list.down", "down", "down", "One row down."),
    Action("list.page_up", "pageup,ctrl+b", "page up", "One page up."),
    Action("list.page_down", "pagedown,ctrl+f", "page down", "One page down."),
    Action("list.first", "home", "first", "To the first row."),
    Action("list.last", "end", "last", "To the last row."),
    Action("list.choose", "enter", "open", "Open the row under the cursor."),
    Action("grid.up", "up", "up", "The picture above."),
    Action("grid.down", "down", "down", "The picture below."),
    Action("grid.left", "left", "left", "The picture before."),
    Action("grid.right", "right", "right", "The picture after."),
    Action("grid.page_up", "pageup,ctrl+b", "page up", "One page up."),
    Action("grid.page_down", "pagedown,ctrl+f", "page down", "One page down."),
    Action("grid.first", "home", "first", "To the first picture."),
    Action("grid.last", "end", "last", "To the last picture."),
    Action("grid.choose", "enter", "open", "Review from this picture on."),
    # Datasets.
    Action("datasets.import", "i", "import", "Import a folder, archive or table of pictures.", 1),
    Action(
        "datasets.review", "v", "review", "Review captions, from the picture under the cursor.", 2
    ),
    Action("datasets.train", "t", "train", "Train a LoRA on this dataset.", 3),
    Action("datasets.filter", "slash", "filter", "Show only pictures that pass a filter.", 4),
    Action("datasets.view", "w", "grid", "The pictures as a grid, or as a list again.", 5),
    Action("datasets.sort", "s", "sort", "Another order; chosen again, the other way round.", 8),
    Action("datasets.select", "space", "choose", "Choose the picture, or no longer, and go on.", 9),
    Action("datasets.stretch", "S", "choose to here", "Choose all from the last chosen to here."),
    Action("datasets.all", "A", "choose all", "Choose all pictures shown, or none."),
    Action("datasets.unselect", "escape", "choose none", "Choose no picture any more."),
    Action("datasets.accept", "a", "accept", "Accept the chosen captions, else this one."),
    Action("datasets.reject", "d", "reject", "Leave the chosen pictures, else this, out."),
    Action("datasets.flag", "f", "flag", "Mark the chosen pictures, else this one."),
    Action("datasets.many", "E", "edit many", "Edit the chosen captions, else all shown, at once."),
    Action(
        "datasets.turn_left",
        "left_square_bracket",
        "turn left",
        "Turn the chosen pictures, else this one, to the left.",
    ),
    Action(
        "datasets.turn_right",
        "right_square_bracket",
        "turn right",
        "Turn the chosen pictures, else this one, to the right.",
    ),
    Action("datasets.frame", "x", "crop", "Crop the picture, and see what training sees of it."),
    Action("datasets.undo", "u", "undo", "Take back your last change here, of many as a whole."),
    Action("datasets.redo", "U,ctrl+r", "redo", "Do again what undo took back."),
    Action("datasets.caption", "c", "caption", "Let a captioner fill the empty captions.", 6),
    Action("datasets.health", "h", "health", "What is wrong with the set, and what mends it.", 7),
    Action("datasets.export", "e", "export", "Write pictures and captions for other tools."),
    Action("datasets.again", "r", "re-read", "Read the folder again: new and changed pictures."),
    Action("datasets.delete", "D", "forget", "Forget a dataset; the files stay (asks first).", 10),
    Action("datasets.cancel", "X", "cancel", "Cancel your import, export, captioning or check."),
    # Review.
    Action("review.accept", "space", "accept", "Accept the caption and go to the next picture.", 1),
    Action("review.edit", "e", "edit", "Edit the caption in place. Leaving the field saves it.", 2),
    Action(
        "review.reject", "d", "reject", "Leave the picture out of training; nothing is deleted.", 3
    ),
    Action("review.flag", "f", "flag", "Mark for a second look, and go to the next picture.", 4),
    Action("review.next", "n,right,j,down", "next", "Next picture.", 5),
    Action("review.previous", "p,left,k,up", "previous", "Previous picture.", 6),
    Action("review.next_unreviewed", "N", "unreviewed", "Next picture nobody has reviewed.", 7),
    Action("review.undo", "u", "undo", "Take back your last change here, of many as a whole.", 8),
    Action("review.redo", "U,ctrl+r", "redo", "Do again what undo took back."),
    Action("review.many", "E", "edit many", "Edit all these captions at once, each shown before."),
    Action("review.filter", "slash", "filter", "Go through pictures that pass a filter.", 9),
    Action("review.tags", "t", "tags", "Take the caption's tags in hand: move, toggle, add.", 10),
    Action("review.shape", "T", "tags/text", "Show captions as tags, as text, or as each is."),
    *(
        Action(f"review.take_{n}", str(n), f"take {n}", f"Candidate {n} is the caption.")
        for n in range(1, 10)
    ),
    Action(
        "review.differences", "equals_sign", "compare words", "Take single words of a candidate."
    ),
    Action("review.turn_left", "left_square_bracket", "turn left", "Turn the picture to the left."),
    Action(
        "review.turn_right", "right_square_bracket", "turn right", "Turn the picture to the right."
    ),
    Action("review.frame", "x", "crop", "Crop the picture, and see what training sees of it."),
    Action("review.mark", "m", "mark", "Mark this picture, to see another one beside it."),
    Action("review.beside", "b", "side by side", "This picture and the marked one, with captions."),
    Action("review.next_issue", "i", "next issue", "The next picture something is wrong with."),
    Action(
        "review.next_like", "I", "next like", "The next picture that passes a filter; says one."
    ),
    Action("review.caption", "c", "caption", "Let a captioner fill empty captions, or write more."),
    Action("review.health", "h", "health", "What is wrong with the set, and what mends it."),
    Action("review.grid", "w", "grid", "The pictures as a grid, from this one on."),
    Action("review.first", "home", "first", "First picture."),
    Action("review.last", "end", "last", "Last picture."),
    Action("review.dataset", "o", "dataset", "Choose another dataset to review."),
    Action(
        "review.drafts", "r", "recover", "Look at captions a lost connection or crash kept back."
    ),
    # While a caption is edited.
    Action("edit.leave", "escape", "done", "Leave the field; the text is saved.", 1),
    Action(
        "edit.save_next",
        "ctrl+s",
        "done, next",
        "Leave the field and go to the next picture.",
        2,
    ),
    # While tags are suggested.
    Action("suggest.take", "tab,right", "take", "Take the suggested tag; enter never does.", 1),
    Action("suggest.next", "shift+tab", "next", "The next suggestion.", 2),
    Action("suggest.hide", "escape", "hide", "No suggestions, until something else is typed.", 3),
    # While tags are in hand.
    Action("chips.leave", "escape", "done", "Leave the tags; the caption is saved.", 1),
    Action("chips.save_next", "ctrl+s", "done, next", "Leave, and go to the next picture.", 2),
    Action("chips.add", "a", "add", "Add a tag; a comma goes on to another one.", 3),
    Action("chips.edit", "e,enter", "edit", "Edit the tag in its place.", 4),
    Action(
        "chips.toggle",
        "space,x",
        "off/on",
        "The tag goes when the tags are left, or stays again.",
        5,
    ),
    Action("chips.remove", "d,delete,backspace", "remove", "Take the tag out at once.", 6),
    Action("chips.left", "left,h", "left", "To the tag before."),
    Action("chips.right", "right,l", "right", "To the tag after."),
    Action("chips.up", "up,k", "up", "To the tag above."),
    Action("chips.down", "down,j", "down", "To the tag below."),
    Action("chips.first", "home", "first", "To the first tag."),
    Action("chips.last", "end", "last", "To the last tag."),
    Action("chips.earlier", "shift+left,H,less_than_sign", "move left", "Move the tag left.", 7),
    Action(
        "chips.later", "shift+right,L,greater_than_sign", "move right", "Move the tag right.", 8
    ),
    Action(
        "chips.everywhere", "A", "to all", "Add the tag to all captions shown; preview first.", 9
    ),
    Action(
        "chips.nowhere", "X", "from all", "Take the tag out of all captions shown, likewise.", 10
    ),
    Action("entry.take", "enter", "take", "The tag as it is typed.", 1),
    Action("entry.more", "comma", "and another", "The tag as it is typed, and then another.", 2),
    Action("entry.leave", "escape", "leave", "Back to the tags as they were.", 3),
    # The window that crops.
    Action("frame.left", "left,h", "left", "Move what is in hand to the left."),
    Action("frame.right", "right,l", "right", "Move what is in hand to the right."),
    Action("frame.up", "up,k", "up", "Move what is in hand up."),
    Action("frame.down", "down,j", "down", "Move what is in hand down."),
    Action("frame.hand", "tab", "hand", "Take all of the crop in hand, or one of its corners."),
    Action("frame.smaller", "minus", "smaller", "A smaller crop, in the same shape."),
    Action("frame.larger", "plus,equals_sign", "larger", "A larger crop, in the same shape."),
    Action("frame.fine", "s", "fine", "Move by single pixels, or by more again."),
    Action("frame.fit", "b", "as the bucket", "Crop to what the bucket shows, and lose no more."),
    Action("frame.whole", "w", "whole", "Take the crop away."),
    Action("frame.turn_left", "left_square_bracket", "turn left", "Turn it to the left."),
    Action("frame.turn_right", "right_square_bracket", "turn right", "Turn it to the right."),
    Action("frame.keep", "enter", "keep", "Keep it so; undo takes it back."),
    Action("frame.leave", "escape,q", "leave", "Leave the picture as it was."),
    # Dialogs.
    Action("dialog.yes", "y", "yes", "Do it."),
    Action("dialog.no", "n,escape", "no", "Leave everything as it is."),
    Action("page.close", "escape,q", "close", "Close this page."),
    Action(
        "conflict.mine", "m", "keep mine", "Write my text over theirs; undo can bring theirs back."
    ),
    Action("conflict.theirs", "t", "take theirs", "Give my text up and keep theirs."),
    Action("conflict.merge", "e", "edit both", "Edit, with both texts in the field."),
    Action("conflict.later", "escape", "later", "Decide later; my text is kept as a draft."),
    Action("recover.save", "s", "save them", "Send every draft to the daemon."),
    Action("recover.discard", "D", "discard", "Throw the drafts away (asks first)."),
    Action("recover.later", "escape", "later", "Leave them; they are offered again."),
    Action("filter.earlier", "up", "up", "Take the filter above."),
    Action("filter.later", "down", "down", "Take the filter below."),
    Action("filter.save", "ctrl+s", "save", "Give this filter a name, for everybody."),
    Action("filter.forget", "ctrl+t", "forget", "Forget the saved filter that is chosen."),
    Action("filter.fields", "f1", "what there is", "What a filter can ask."),
    Action("filter.leave", "escape", "leave", "Leave everything as it is."),
    Action("bulk.page_up", "pageup", "earlier", "Differences before these."),
    Action("bulk.page_down", "pagedown", "later", "Differences after these."),
    Action("bulk.leave", "escape", "leave", "Leave everything as it is."),
    Action("parts.pick", "space", "take", "Take the part under the cursor, or leave it."),
    Action("parts.left", "left,up,h,k", "before", "To the part before."),
    Action("parts.right", "right,down,l,j", "after", "To the part after."),
    Action("parts.apply", "enter", "save", "Save the parts that are taken; none: all of them."),
    Action("parts.leave", "escape", "leave", "Leave everything as it is."),
    *(
        Action(f"parts.show_{n}", str(n), f"show {n}", f"Candidate {n} in place of this one.")
        for n in range(1, 10)
    ),
    Action("health.check", "c", "check", "Measure what is not measured yet, and compare."),
    Action("health.fix", "f", "mend", "Mend what is under the cursor; each change is shown first."),
    Action("health.undo", "u", "undo", "Take back your last change in this set."),
    Action("health.advice", "a", "advice", "What the set is good for, and why."),
    Action("health.trigger", "t", "trigger", "The word that every caption is to have."),
    Action("health.resolution", "r", "resolution", "What the set is to be trained at."),
    Action("health.leave", "escape,q", "leave", "Close this window; a check goes on."),
    Action("import.cancel", "escape", "cancel", "Stop, or close this window."),
    Action("import.hide", "ctrl+b", "in background", "Let the import go on without this window."),
    # Train.
    Action("train.start", "s,ctrl+s", "start", "Queue the run with this recipe.", 1),
    Action("train.advanced", "a", "all options", "Show every option, or only the usual ones.", 2),
    Action("train.check", "c", "check", "Check every field and say what is wrong.", 3),
    Action("train.sweep", "w,ctrl+t", "sweep", "Several values in this field, a run for each.", 4),
    Action("train.reset", "R", "reset", "Back to the recipe as it came (asks first).", 5),
    Action(
        "train.open", "o", "open", "Fill the form from a recipe of yours, or from kohya's files.", 6
    ),
    Action("train.save", "S", "save", "Write the recipe to a file of yours.", 7),
    Action(
        "train.leave_field",
        "escape",
        "leave field",
        "Leave the field so that letters are keys again.",
    ),
    # Runs.
    Action("runs.pause", "p", "pause", "Pause the run, or let it go on.", 1),
    Action("runs.sample", "s", "sample", "Make the sample pictures now.", 2),
    Action("runs.keep", "k", "keep", "Keep a LoRA of this very step.", 3),
    Action("runs.stop", "x", "stop", "Stop for good and save the LoRA (asks first).", 4),
    Action("runs.details", "enter", "details", "Recipe, checkpoints, skipped pictures.", 6),
    Action("runs.which", "w", "which", "Which checkpoint to take, and why.", 8),
    Action("runs.choose", "space", "choose", "Choose the run, or no longer, and go on.", 11),
    Action("runs.unchoose", "escape", "choose none", "Choose no run any more."),
    Action("runs.compare", "c", "compare", "The chosen runs, or this sweep's, side by side.", 5),
    Action("runs.fork", "f", "fork", "A new run that begins from this one, set otherwise.", 7),
    Action("runs.extend", "e", "extend", "Let a run that has ended take more steps.", 9),
    Action("runs.earlier", "K,shift+up", "earlier", "One place earlier in the queue.", 13),
    Action("runs.later", "J,shift+down", "later", "One place later in the queue.", 14),
    Action("runs.first", "less_than_sign", "first", "First in the queue."),
    Action("runs.last", "greater_than_sign", "last", "Last in the queue."),
    Action("runs.after", "A", "after", "Which runs this one waits for in the queue.", 15),
    Action("runs.log", "l", "log", "The run's whole log.", 10),
    Action("runs.newer", "right_square_bracket", "next sample", "The next sample picture."),
    Action("runs.older", "left_square_bracket", "earlier sample", "The sample picture before."),
    Action("runs.filter", "slash", "filter", "Show only runs whose name has these letters."),
    Action("runs.export", "E", "TensorBoard", "Write the run as TensorBoard event files."),
    Action("runs.delete", "D", "delete", "Delete the run and its files (asks first).", 12),
    # Runs side by side.
    Action("compare.view", "tab,v", "next view", "Losses, kept back, recipes, samples in turn."),
    Action("compare.loss", "1", "losses", "The losses over one another."),
    Action("compare.held", "2", "kept back", "The losses on pictures kept back."),
    Action("compare.recipes", "3", "recipes", "Where the recipes differ."),
    Action("compare.samples", "4", "samples", "Samples of one step and prompt beside each other."),
    Action("compare.older", "left_square_bracket,left", "step before", "Samples of a step before."),
    Action("compare.newer", "right_square_bracket,right", "next step", "Samples of a later step."),
    Action("compare.prompt", "n", "next prompt", "Samples of the next prompt."),
    Action("compare.measure", "m", "measure", "Measure the checkpoints of each; goes on behind."),
    Action("compare.norms", "d", "‖ΔW‖", "How large each LoRA's change is; reads the files."),
    Action("compare.sheet", "e", "sheet", "Losses and latest samples written as a PNG."),
    Action("compare.close", "escape,q", "close", "Close this window."),
    # Windows over Runs.
    Action("fork.start", "ctrl+s", "start", "Queue the fork."),
    Action("fork.leave", "escape", "leave", "Leave everything as it is."),
    Action("after.pick", "space", "wait for", "Wait for the run under the cursor, or no longer."),
    Action("after.keep", "enter", "keep", "Wait for the marked runs; none: for no run."),
    Action("after.leave", "escape,q", "leave", "Leave everything as it is."),
    # Which checkpoint.
    Action("which.measure", "m", "measure", "Measure what is not measured yet; goes on behind."),
    Action("which.compare", "v", "compare blind", "Choose between pictures without their names."),
    Action("which.cancel", "X", "cancel", "Give your measuring up; what is measured stays."),
    Action("which.close", "escape,q", "close", "Close this window."),
    Action("blind.left", "left,1,h", "left", "The left one is better."),
    Action("blind.right", "right,2,l", "right", "The right one is better."),
    Action("blind.neither", "space,0", "neither", "Neither is better."),
    Action("blind.undo", "u", "undo", "Take the last choice back."),
    Action("blind.close", "escape,q", "close", "Close this window; what was chosen stays."),
    # Mixer.
    Action("mixer.lighter", "left,h", "weight −", "Lower the LoRA's weight by 0.05."),
    Action(
        "mixer.heavier",
        "right,l",
        "weight +",
        "Raise the LoRA's weight by 0.05.",
        1,
        "mixer.lighter",
    ),
    Action("mixer.much_lighter", "shift+left,H", "− −", "Lower the weight by 0.25."),
    Action("mixer.much_heavier", "shift+right,L", "+ +", "Raise the weight by 0.25."),
    Action("mixer.weight", "enter", "exact", "Type the weight.", 3),
    Action("mixer.text_weight", "t", "text", "Give the text encoder a weight of its own."),
    Action("mixer.blocks", "b", "blocks", "Weights per block, as the WebUI writes them."),
    Action("mixer.steps", "z", "steps", "The part of the steps that the LoRA takes part in."),
    Action("mixer.region", "i", "region", "The part of the picture that the LoRA acts in."),
    Action("mixer.guidance", "u", "guide", "How much further pictures go along what it adds."),
    Action("mixer.mute", "m", "mute", "Leave the LoRA out, or take it in again.", 7),
    Action("mixer.solo", "s", "solo", "Hear this LoRA alone, with others that are solo.", 8),
    Action("mixer.add", "a", "add", "Add a LoRA of the library.", 4),
    Action("mixer.add_file", "A", "add file", "Add a LoRA file by its path."),
    Action("mixer.remove", "d,delete", "remove", "Take the LoRA out of the mix.", 5),
    Action("mixer.prompt", "e", "prompt", "Edit prompt and negative prompt.", 10),
    Action("mixer.settings", "p", "settings", "Base, sampler, steps, guidance, seed, size.", 11),
    Action("mixer.seed", "n", "new seed", "Take another seed."),
    Action("mixer.next_seed", "full_stop", "seed + 1", "The next seed."),
    Action("mixer.last_seed", "comma", "seed − 1", "The seed before."),
    Action("mixer.flip", "x", "A/B", "To the mix's other side and back.", 9),
    *(
        Action(f"mixer.tried_{n}", str(n), f"try {n}", f"Back to number {n} of what was tried.")
        for n in range(1, 10)
    ),
    Action("mixer.copy", "y", "copy", "Copy the mix as a WebUI prompt.", 12),
    Action("mixer.keep", "k", "keep", "Keep the whole picture among the outputs."),
    Action("mixer.save", "w", "save", "Save the mix under a name, for everybody.", 13),
    Action("mixer.load", "o", "load", "Load a saved mix.", 14),
    Action("mixer.forget", "D", "forget", "Forget a saved mix (asks first)."),
    Action("mixer.fight", "c", "conflict", "Where the LoRAs of the mix fight, and who loses.", 6),
    Action("mixer.grid", "G", "grid", "The mix along axes: weights, seeds, prompts, bases."),
    Action(
        "mixer.merge",
        "M",
        "merge",
        "One file of the mix: exact, TIES, DARE, ZipLoRA; again: give up.",
    ),
    Action("mixer.remedy", "C", "remedy", "Try on the base what wins back lost effects.", 15),
    Action("mixer.again", "r", "again", "Try again to paint what failed."),
    Action("mixer.leave_field", "escape", "leave field", "Back to the LoRAs; the text is taken."),
    Action("fighting.close", "escape,q", "close", "Close this window; a probe is given up."),
    Action("fighting.probe", "p", "try on the base", "Measure what is left of each effect."),
    Action("fighting.losses", "l", "foretell", "Paint pictures, and foretell what each loses."),
    Action("fighting.remedies", "r", "remedies", "Work out other weights, and try them."),
    *(
        Action(f"fighting.take_{n}", str(n), f"take {n}", f"Take remedy {n} into the mix.")
        for n in range(1, 5)
    ),
    Action("mix_settings.take", "ctrl+s", "take", "Take these settings."),
    Action("mix_settings.leave", "escape", "leave", "Leave everything as it is."),
    Action("axes.paint", "ctrl+s", "paint", "Paint the grid, or go on with it (also enter)."),
    Action("axes.leave", "escape", "leave", "Paint nothing."),
    # Library.
    Action("library.generate", "enter", "paint", "Paint with and without the LoRA.", 1),
    Action("library.lighter", "left,minus", "weight −", "Lower the LoRA's weight by 0.1.", 3),
    Action("library.heavier", "right,plus", "weight +", "Raise the LoRA's weight by 0.1.", 4),
    Action("library.prompt", "e", "edit prompt", "Into the prompt and settings.", 2),
    Action("library.seed", "n", "new seed", "Take another seed.", 5),
    Action("library.cancel", "c", "cancel", "Stop painting."),
    Action("library.filter", "slash", "filter", "Show only LoRAs whose name has these letters.", 6),
    Action("library.card", "i", "card", "All that is known of the LoRA, and its spectrum.", 8),
    Action("library.index", "a", "add folder", "List the LoRA files of a folder of yours.", 9),
    Action("library.delete", "D", "delete", "Delete the LoRA file (asks first).", 7),
    Action("library.leave_field", "escape", "leave field", "Back to the list."),
    Action("card.weigh", "w", "weight", "Measure at which weight to begin; some minutes."),
    Action("card.duplicates", "d", "duplicates", "Read the files that may be the same as others."),
    Action("card.close", "escape,q", "close", "Close this window."),
    # Gallery.
    Action("gallery.mix", "m", "to Mixer", "All that made the picture, into the live mix.", 1),
    Action("gallery.seed", "n", "new seed", "Paint it once more with another seed.", 2),
    Action("gallery.again", "a", "again", "Paint it once more, with all that made it."),
    *(
        Action(
            f"gallery.rate_{n}",
            str(n),
            f"rate {n}",
            f"Rate the picture {n} of 5.",
            3 * (n == 5),
            "gallery.rate_1" * (n == 5),
        )
        for n in range(1, 6)
    ),
    Action("gallery.rate_0", "0", "no rating", "Take the rating back."),
    Action("gallery.mark", "space", "mark", "Mark it, to see another one beside it.", 4),
    Action("gallery.beside", "b", "compare", "This picture and the marked one, side by side.", 5),
    Action("gallery.filter", "slash", "filter", "Show only pictures that pass a filter.", 6),
    Action("gallery.sort", "s", "sort", "Newest, oldest, best rated, or by prompt.", 7),
    Action("gallery.import", "i", "import", "Show pictures of another tool.", 8),
    Action("gallery.export", "e", "export", "Copy the picture to this machine.", 9),
    Action("gallery.export_bare", "E", "export bare", "Likewise, without what is written in it."),
    Action("gallery.copy", "y", "copy", "Copy its parameters as the WebUI reads them."),
    Action("gallery.cancel", "X", "cancel", "Give up what you have painted here."),
    Action(
        "gallery.remove", "D", "delete", "Delete it, or forget an imported one (asks first).", 10
    ),
    # Bases.
    Action("bases.add", "a", "add", "Add a folder, a file, a model of the Hub, or an address.", 1),
    Action("bases.inspect", "enter", "look again", "Look the base over anew.", 2),
    Action("bases.objective", "o", "predicts", "Say what the base predicts: noise or v.", 3),
    Action("bases.filter", "slash", "filter", "Show only bases whose name has these letters.", 4),
    Action("bases.remove", "D", "forget", "Forget the base; its files stay (asks first).", 5),
)

BY_ID: dict[str, Action] = {action.id: action for action in ACTIONS}


def of_scope(scope: str) -> list[Action]:
    """The actions of one screen, in the order of the table."""
    return [action for action in ACTIONS if action.scope == scope]


_NAMES = {
    "question_mark": "?",
    "colon": ":",
    "slash": "/",
    "left_square_bracket": "[",
    "right_square_bracket": "]",
    "minus": "-",
    "plus": "+",
    "escape": "esc",
    "pageup": "page up",
    "pagedown": "page down",
    "left": "←",
    "right": "→",
    "up": "↑",
    "down": "↓",
    "space": "space",
    "comma": ",",
    "equals_sign": "=",
    "less_than_sign": "<",
    "greater_than_sign": ">",
    "tab": "⇥",
    "shift+tab": "⇧⇥",
    "full_stop": ".",
    "shift+left": "⇧←",
    "shift+right": "⇧→",
}


def shown_key(key: str) -> str:
    """A key as people write it: ``?`` for question_mark, ``^p`` for ctrl+p."""
    if key.startswith("ctrl+"):
        return f"^{key[5:]}"
    return _NAMES.get(key, key)
